"""What the tables and the chart say of what was measured."""

import xml.etree.ElementTree as ET

from bench.chart import chart
from bench.figures import Figure, Section, Target, compared_figure, plain_figure
from bench.report import table
from bench.runs import Run, in_turn
from bench.usage import Reading, cores_between


def test_a_run_is_compared_with_the_limits_just_before_and_after_it() -> None:
    # The machine becomes half as fast in the middle; the ratio does not see it.
    limits, ours = iter([1000.0, 1000.0, 500.0, 500.0, 500.0]), iter([400.0, 300.0, 200.0, 200.0])
    reached, runs = in_turn(
        lambda: Run(next(limits), {}),
        {"first": lambda: Run(next(ours), {}), "second": lambda: Run(next(ours), {})},
        rounds=2,
    )
    assert runs["first"].ratio == 0.4
    assert runs["second"].ratio == 0.4
    assert reached.per_sec == 500


def test_a_target_that_is_missed_says_by_how_much_and_one_that_is_met_says_so() -> None:
    limit = Run(1000, {})
    _, runs = in_turn(lambda: limit, {"ours": lambda: Run(300, {"server": 0.9})}, rounds=1)
    missed = compared_figure("ours", runs["ours"], limit, Target(0.4, of_ratio=True))
    assert missed.judged == (False, "missed by 25%")
    assert Figure("page", 20.0, "ms", target=Target(20, at_most=True)).judged == (True, "met")
    assert Figure("page", 30.0, "ms", target=Target(20, at_most=True)).judged == (False, "missed by 50%")


def test_the_table_shows_ratio_verdict_and_whose_cpu_it_took() -> None:
    limit = Run(1000, {"PostgreSQL": 1.5, "generator": 0.25})
    _, runs = in_turn(lambda: limit, {"ours": lambda: Run(300, {"server": 0.9})}, rounds=1)
    figures = (plain_figure("limit", limit), compared_figure("ours", runs["ours"], limit, Target(0.4, of_ratio=True)))
    lines = table(Section("life", "a title", figures)).splitlines()
    (ours,) = [line for line in lines if line.startswith("| ours")]
    assert [cell.strip() for cell in ours.strip("|").split("|")] == [
        *("ours", "300 tasks/s", "1,000", "0.30", "≥ 0.4", "missed by 25%", "90%", "", ""),
    ]
    assert len({len(line) for line in lines if line.startswith("|")}) == 1


def test_cpu_that_nobody_measured_is_counted_as_that_of_others() -> None:
    before, after = Reading(10.0, {"server": 1.0}, 100.0), Reading(20.0, {"server": 6.0}, 118.0)
    assert cores_between(before, after) == {"server": 0.5, "others": 1.3}


def test_the_chart_is_an_svg_for_light_and_dark_that_names_what_was_missed() -> None:
    figures = (
        Figure("a <quick> page", 30.0, "ms", target=Target(20, at_most=True)),
        plain_figure("limit", Run(1000, {})),
    )
    drawn = chart({"CPU": "2 cores & more"}, [Section("lists", "pages", figures)])
    root = ET.fromstring(drawn)  # noqa: S314 - our own
    texts = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert "lists: a <quick> page" in texts
    assert any("missed by 50%" in text for text in texts)
    assert "CPU 2 cores & more" in texts
    assert "prefers-color-scheme: dark" in drawn
