"""What a terminal is shown while a task runs."""

import asyncio
import io

import pytest
from fake_runtime import LEASE_ID, event, result, task

from bloom.cli.follow import MAX_PAUSE_SEC, Ending, backoff
from bloom.cli.progress import Progress
from bloom.cli.task_output import conclude
from bloom.client import RuntimeClient
from bloom.tasks.schemas import EventOut, LLMResult, LLMTask


class Terminal(io.StringIO):
    """A stream at which a person looks."""

    def isatty(self) -> bool:
        return True


async def _no_reason(task: LLMTask) -> str:
    return "waiting for a worker"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """One terminal for stdout and stderr, without colours."""
    monkeypatch.setenv("NO_COLOR", "1")
    return Terminal()


def progress_on(screen: Terminal) -> Progress:
    return Progress(_no_reason, quiet=False, out=screen, err=screen)


def happen(progress: Progress, number: int, kind: str, lease_id: str = LEASE_ID, **data: object) -> None:
    progress.happened(EventOut.model_validate({**event(number, kind, **data), "lease_id": lease_id}))


def finish(progress: Progress, output: str) -> None:
    last = result(output)
    document = {"task": task("completed"), "result": last}
    ending = Ending(LLMTask.model_validate(document["task"]), LLMResult.model_validate(last), document)

    async def run() -> None:
        async with RuntimeClient("http://127.0.0.1:1") as client:
            await conclude(client, ending, progress, quiet=False, as_json=False)

    asyncio.run(run())


def test_text_comes_as_it_is_written_and_the_result_is_not_shown_twice(screen: Terminal) -> None:
    progress = progress_on(screen)
    happen(progress, 1, "text", text="Hel")
    assert screen.getvalue() == "Hel"
    happen(progress, 2, "text", text="lo.")
    happen(progress, 3, "tool_use", name="Read", input={"path": "a", "limit": 3})
    happen(progress, 4, "text", text="The answer\x1b[2J is\r 4.")
    happen(progress, 5, "status", state="new_session")
    finish(progress, "The answer\x1b[2J is\r 4.\n")
    lines = screen.getvalue().splitlines()
    assert lines[:4] == ["Hello.", '→ Read {"path": "a", "limit": 3}', "The answer is 4.", "new session"]
    assert lines[4].startswith("completed · 12 s")
    assert len(lines) == 5


def test_a_result_that_was_not_streamed_is_shown_at_the_end(screen: Terminal) -> None:
    progress = progress_on(screen)
    happen(progress, 1, "text", text="thinking aloud")
    finish(progress, "4")
    assert screen.getvalue().splitlines()[:2] == ["thinking aloud", "4"]


def test_text_of_an_earlier_attempt_does_not_count_as_seen(screen: Terminal) -> None:
    progress = progress_on(screen)
    happen(progress, 1, "text", text="4")
    happen(progress, 2, "text", lease_id="another", text="so: ")
    finish(progress, "4")
    assert screen.getvalue().splitlines()[:3] == ["4", "so: ", "4"]


def test_a_sequence_cut_between_two_events_is_harmless(screen: Terminal) -> None:
    progress = progress_on(screen)
    happen(progress, 1, "text", text="a\x1b")
    happen(progress, 2, "text", text="]0;title\x07b")
    assert screen.getvalue() == "a]0;titleb"


def test_names_from_outside_cannot_move_the_cursor(screen: Terminal) -> None:
    progress = progress_on(screen)
    queued = LLMTask.model_validate(task("leased", worker_id="pi\x1b[2K\r4\nroot"))
    asyncio.run(progress.task_changed(queued))
    happen(progress, 1, "error", code="x\x9b31m", message="bad\x07\x1b]52;c;aGk=\x07")
    assert screen.getvalue().splitlines() == ["leased by pi 4 root (attempt 1 of 3)", "x: bad"]


def test_a_long_tool_call_stays_on_one_line(screen: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    happen(progress_on(screen), 1, "tool_use", name="Bash", input={"command": "echo " + "長" * 40})
    (line,) = screen.getvalue().splitlines()
    assert line.endswith("…") and line.startswith("→ Bash echo 長")


def test_the_same_line_twice_in_a_row_is_written_once(screen: Terminal) -> None:
    progress = progress_on(screen)
    for number in (1, 2):
        happen(progress, number, "status", state="restarted")
    assert screen.getvalue() == "restarted\n"


def test_pauses_double_up_to_a_bound() -> None:
    for failures, longest in ((1, 0.5), (2, 1), (4, 4), (20, MAX_PAUSE_SEC), (10_000, MAX_PAUSE_SEC)):
        assert longest / 2 <= backoff(failures) <= longest
