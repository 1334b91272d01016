"""`kill -9` of a worker leaves no process of its runs behind: tried from outside, with the real CLI running a tool.

Ten times by default; `make soak` tries it fifty times (BLOOM_TEST_ORPHAN_ROUNDS: rounds of five workers at once).
"""

import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
from living import marked, with_marker
from tests.real_runtime import Replica, told
from tests.real_worker import NO_LIMITS, RealWorker
from tests.stubs.anthropic import AnthropicStub

AT_ONCE = 5
ROUNDS = int(os.environ.get("BLOOM_TEST_ORPHAN_ROUNDS", "2"))

pytestmark = pytest.mark.timeout(60 + 60 * ROUNDS)

CONFIG = f"""
stop_grace_sec = 1
[agents.default]
allowed_tools = ["Bash"]
{NO_LIMITS}
"""


@pytest.fixture
def marker() -> Generator[str]:
    with marked() as made:
        yield made


def of_leases(lease_ids: set[str]) -> list[psutil.Process]:
    """The processes, guardians too, that carry one of these leases in their environment."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get("BLOOM_LEASE_ID") in lease_ids and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.claude
def test_a_killed_worker_leaves_no_process_that_goes_on_and_spends(
    runtime: Replica,
    stub: AnthropicStub,
    claude_environment: Callable[[str], dict[str, str]],
    marker: str,
    tmp_path: Path,
) -> None:
    # A tool in the CLI's own session for tools, another in a session of its own, and one that has lost its parent.
    environment = claude_environment(f"bash-(setsid sleep {marker} &); setsid sleep {marker} & sleep {marker}")
    for number in range(ROUNDS):
        with ExitStack() as stack:
            workers = [
                RealWorker(
                    runtime.url,
                    tmp_path / f"{number}-{one}",
                    name=f"w{number}-{one}",
                    executor="claude",
                    config=CONFIG,
                    environment=environment,
                )
                for one in range(AT_ONCE)
            ]
            tasks = [runtime.create(context_id=f"{number}-{one}")["id"] for one in range(AT_ONCE)]
            for worker in workers:
                stack.callback(worker.kill)
                worker.start()
            workers[0].until(lambda: len(with_marker(marker)) == 3 * AT_ONCE, "tools at work")
            leases = {str(runtime.task(task_id)["lease_id"]) for task_id in tasks}
            assert len(of_leases(leases)) >= 5 * AT_ONCE  # guardian, CLI and tools of each
            asked = len(stub.requests)
            for worker in workers:
                worker.kill()
            workers[0].until(lambda leases=leases: not of_leases(leases), "the end of every process")
        assert with_marker(marker) == []
        assert len(stub.requests) == asked
        for one in range(AT_ONCE):
            told(runtime.delete(f"/workers/w{number}-{one}"))
        for task_id in tasks:
            told(runtime.post(f"/llm-tasks/{task_id}/cancel"))
