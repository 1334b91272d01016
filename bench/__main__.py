"""`python -m bench [names]`: run the measurements, print tables, write JSON and a chart to `bench/results/`."""

import argparse
import json
import time
from pathlib import Path

from bench import costs, full_tables, idle, life, lists, outputs, pages, peer, scale, wakeup
from bench.chart import chart
from bench.figures import Section
from bench.machine import describe
from bench.plan import Plan
from bench.report import machine_line, table
from bench.stack import Stack

RESULTS = Path(__file__).parent / "results"

MEASUREMENTS = {
    "life": life.life,
    "protocol": life.protocol,
    "wakeup": wakeup.wakeup,
    "idle": idle.idle,
    "pages": pages.pages,
    "scale": scale.scale,
    "costs": costs.costs,
    "outputs": outputs.outputs,
    "peer": peer.peer,
    "full": full_tables.full_tables,
    "lists": lists.lists,
}


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"what to measure: {', '.join(MEASUREMENTS)} (all)")
    parser.add_argument("--seconds", type=float, help="of each run (10)")
    parser.add_argument("--rounds", type=int, help="of runs in turn with the limit (2)")
    parser.add_argument("--clients", type=int, nargs="+", default=[16, 64], help="(16 64)")
    parser.add_argument(
        "--quick", action="store_true", help="a short look: runs of 3 seconds, smaller tables and outputs"
    )
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a target is missed")
    told = parser.parse_args()
    if unknown := set(told.names) - MEASUREMENTS.keys():
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    plan = Plan(
        seconds=told.seconds or (3 if told.quick else 10),
        rounds=told.rounds or (1 if told.quick else 2),
        clients=tuple(told.clients),
        quick=told.quick,
    )
    machine = describe()
    print(machine_line(machine), flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / time.strftime("%Y%m%dT%H%M%S")
    sections: list[Section] = []
    with Stack() as stack:
        for name in told.names or MEASUREMENTS:
            sections.append(MEASUREMENTS[name](plan, stack))
            print(f"\n{table(sections[-1])}", flush=True)
            _write(path, machine, sections)
    print(f"\nwritten to {path}.json and {path}.svg")
    missed = [
        figure.name for section in sections for figure in section.figures if figure.judged and not figure.judged[0]
    ]
    if told.strict and missed:
        raise SystemExit(f"missed: {', '.join(missed)}")


def _write(path: Path, machine: dict[str, str], sections: list[Section]) -> None:
    told = {section.name: [figure.as_json() for figure in section.figures] for section in sections}
    text = json.dumps({"machine": machine, "sections": told}, indent=2, ensure_ascii=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    path.with_suffix(".svg").write_text(chart(machine, sections), encoding="utf-8")


if __name__ == "__main__":
    main()
