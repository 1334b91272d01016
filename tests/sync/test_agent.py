"""A node as an agent of Membridge: seen, reporting how its memory stands, and running the syncs it is asked for."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.real_membridge import Membridge
from tests.sync.claude_mem import remember

from bloom.base.settings import load
from bloom.membridge.model import canonical_id_of
from bloom.membridge.schemas import Command, ReportJob
from bloom.sync.agent import AgentOptions, AgentPace, serve_agent
from bloom.sync.agent_job import JobPace, run_job
from bloom.sync.errors import MembridgeUnreachable
from bloom.sync.settings import SyncSettings

PATIENCE_SEC = 20
_PACE = AgentPace(seen_sec=0.05, wait_sec=5, retry_first_sec=0.01, retry_max_sec=0.05)


async def _until(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + PATIENCE_SEC
    while not (answer := await asyncio.to_thread(condition)):
        assert time.monotonic() < until, condition
        await asyncio.sleep(0.02)
    return answer


def _while_serving(options: AgentOptions, settings: SyncSettings, work: Callable[[], Awaitable[None]]) -> None:
    async def both() -> None:
        stopping = asyncio.Event()
        serving = asyncio.create_task(serve_agent(options, settings, stopping))
        await asyncio.sleep(0)  # it begins
        try:
            await work()
        finally:
            stopping.set()
            await asyncio.wait_for(serving, PATIENCE_SEC)

    asyncio.run(both())


@pytest.fixture
def project() -> str:
    """A project of this test alone."""
    return f"project-{os.urandom(4).hex()}"


@pytest.fixture
def environment(tmp_path: Path, project: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node whose store is a directory and whose memory has two observations; where the database is."""
    database = tmp_path / "claude-mem.db"
    remember(database, "a session")
    (tmp_path / "store").mkdir()
    for name, value in {
        "CLAUDE_PROJECT_ID": project,
        "CLAUDE_MEM_DB": str(database),
        "BLOOM_SYNC_DIR": str(tmp_path / "store"),
        "MEMBRIDGE_NODE_ID": "node-1",
    }.items():
        monkeypatch.setenv(name, value)
    return database


def _job(plane: Membridge, action: str, project: str, agent: str, **more: Any) -> dict[str, Any]:
    answer = plane.post(f"/sync/{action}", {"project": project, "agent": agent, **more})
    assert answer.status_code == 200, answer.text
    return plane.get(f"/jobs/{answer.json()['job_id']}").json()


def _ended(plane: Membridge, job: dict[str, Any]) -> Callable[[], Any]:
    def ask() -> Any:
        now = plane.get(f"/jobs/{job['id']}").json()
        return now if now["status"] not in ("queued", "running") else None

    return ask


def test_an_agent_is_seen_with_its_memory_and_runs_the_syncs_it_is_asked_for(
    plane: Membridge, environment: Path, project: str
) -> None:
    options = AgentOptions(plane.url, plane.key, f"agent of {project}", True, 3, ("gpu",), _PACE)
    cid = canonical_id_of(project)

    async def work() -> None:
        agent = await _until(lambda: [a for a in plane.get("/agents").json() if a["name"] == options.name])
        assert (agent[0]["status"], agent[0]["url"]) == ("online", None)
        assert agent[0]["capabilities"] == {"claude_cli": True, "max_concurrency": 3, "labels": ["gpu"]}
        await _until(lambda: plane.get(f"/projects/{cid}/nodes").status_code == 200)
        node = plane.get(f"/projects/{cid}/nodes").json()[0]
        assert (node["node_id"], node["obs_count"], node["role"]) == ("node-1", 2, "primary")

        pushed = await _until(_ended(plane, _job(plane, "push", project, options.name)))
        assert (pushed["status"], pushed["returncode"]) == ("done", 0), pushed
        assert "pushed 2 observations" in pushed["stdout"]
        assert pushed["detail"]
        plane.post("/projects", {"name": f"another {project}"})
        other = await _until(_ended(plane, _job(plane, "pull", f"another {project}", options.name)))
        assert other["status"] == "failed"
        assert "CLAUDE_PROJECT_ID" in other["detail"]

        assert plane.delete(f"/agents/{options.name}").status_code == 204  # it comes back by itself
        await _until(lambda: [a for a in plane.get("/agents").json() if a["name"] == options.name])
        versions = plane.get(f"/projects/{cid}/versions").json()
        await _until(lambda: plane.get(f"/projects/{cid}/nodes").json()[0]["db_sha"] == versions[0]["sha256"])

    _while_serving(options, load(SyncSettings), work)


class AwayPlane:
    """Stands for the client of a Membridge that is away at first."""

    def __init__(self, url: str, key: str) -> None:
        self.calls: list[str] = []
        self.reports: list[ReportJob] = []
        self.is_back = False
        self.jobs: list[Command] = []
        type(self).last = self

    async def __aenter__(self) -> "AwayPlane":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def _ask(self, what: str) -> None:
        self.calls.append(what)
        await asyncio.sleep(0)
        if not self.is_back:
            raise MembridgeUnreachable("Membridge is away")

    async def register_agent(self, agent: object) -> None:
        await self._ask("register")

    async def heartbeat(self, beat: object) -> None:
        await self._ask("heartbeat")

    async def commands(self, agent: str, wait_sec: float) -> list[Command]:
        await self._ask("commands")
        if self.jobs:
            return [self.jobs.pop()]
        await asyncio.Event().wait()
        raise AssertionError

    async def report(self, agent: str, job_id: str, report: ReportJob) -> None:
        raise AssertionError(report)

    last: "AwayPlane"


def test_while_membridge_is_away_the_log_says_so_once_and_the_agent_goes_on_when_it_is_back(
    environment: Path, project: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bloom.sync.agent.MembridgeClient", AwayPlane)
    caplog.set_level(logging.INFO, "bloom.agent")

    async def work() -> None:
        await _until(lambda: AwayPlane.last.calls.count("commands") > 5)
        assert sum("cannot ask for commands" in message for message in caplog.messages) == 1
        AwayPlane.last.is_back = True
        await _until(lambda: sum("again" in m and m.startswith("can ") for m in caplog.messages) >= 2)

    _while_serving(AgentOptions("http://127.0.0.1:1", "k", "a", True, 1, None, _PACE), load(SyncSettings), work)


def test_the_end_of_a_job_is_reported_again_until_membridge_is_back(
    environment: Path, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def report(self: AwayPlane, agent: str, job_id: str, report: ReportJob) -> None:
        self.reports.append(report)
        if len(self.reports) < 4:
            raise MembridgeUnreachable("Membridge is away")

    monkeypatch.setattr(AwayPlane, "report", report)
    monkeypatch.setattr("bloom.sync.agent.MembridgeClient", AwayPlane)
    command = Command(id="1", action="push", project="x", canonical_id="0" * 16, dryrun=False, deadline_ms=0)

    async def work() -> None:
        AwayPlane.last.jobs.append(command)
        AwayPlane.last.is_back = True
        await _until(lambda: len(AwayPlane.last.reports) == 4)

    _while_serving(AgentOptions("http://127.0.0.1:1", "k", "a", True, 1, None, _PACE), load(SyncSettings), work)
    assert {each.status for each in AwayPlane.last.reports} == {"failed"}


_JOB = JobPace(job_sec=20, report_sec=0.05, stop_sec=5)


def _run(code: str, pace: JobPace = _JOB, stop_at: str | None = None) -> tuple[ReportJob, list[ReportJob]]:
    told: list[ReportJob] = []

    async def run() -> ReportJob:
        stopping = asyncio.Event()

        async def tell(report: ReportJob) -> None:
            told.append(report)
            if stop_at is not None and stop_at in (report.stdout or ""):
                stopping.set()

        argv = [sys.executable, "-c", code]
        return await asyncio.wait_for(run_job(argv, os.environ, pace, stopping, tell), PATIENCE_SEC)

    return asyncio.run(run()), told


def test_a_jobs_output_is_told_while_it_runs_and_its_end_is_kept_when_there_is_much() -> None:
    report, told = _run(
        "import sys, time\nprint('begun', flush=True)\nsys.stdin.read()\ntime.sleep(0.3)\n"
        "print('x' * 200_000 + '\\0end')\nprint('oops', file=sys.stderr)\nsys.exit(2)"
    )
    assert (report.status, report.returncode, report.detail) == ("failed", 2, "oops")
    assert report.stdout is not None
    assert report.stdout.endswith("end\n")
    assert len(report.stdout) <= 64 * 1024
    assert any(each.status == "running" and each.stdout == "begun\n" for each in told)


_FAMILY = (
    "import os, signal, subprocess, sys\n"
    "signal.signal(signal.SIGTERM, {on_term})\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.signal(15, signal.SIG_IGN); signal.pause()'])\n"
    "print(child.pid, flush=True)\n"
    "signal.pause()"
)


def test_a_job_that_takes_too_long_is_ended_with_all_that_it_started() -> None:
    report, _ = _run(_FAMILY.format(on_term="signal.SIG_IGN"), JobPace(job_sec=1.5, report_sec=0.05, stop_sec=0.2))
    assert report.status == "failed"
    assert report.detail == "stopped: it took longer than 1.5 s"
    grandchild = int((report.stdout or "").strip())
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE


def test_a_stopped_worker_stops_the_job_gently_and_reports_it() -> None:
    report, _ = _run(
        "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: (print('released'), sys.exit(0)))\n"
        "print('begun', flush=True)\nsignal.pause()",
        stop_at="begun",
    )
    assert report.detail == "stopped: the worker was stopped"
    assert "released" in (report.stdout or "")


def test_a_program_that_cannot_be_started_is_a_failed_job() -> None:
    async def tell(report: ReportJob) -> None:
        raise AssertionError(report)

    report = asyncio.run(run_job(["/no/such/program"], {}, _JOB, asyncio.Event(), tell))
    assert report.status == "failed"


@pytest.fixture
def worker(plane: Membridge, environment: Path, tmp_path: Path, project: str) -> Generator[subprocess.Popen[bytes]]:
    """`bloom worker --membridge` whose runtime is not there."""
    options = {
        "--runtime": "http://127.0.0.1:9",
        "--name": f"worker {project}",
        "--slots": "2",
        "--executor": "command",
        "--membridge": plane.url,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "bloom", "worker", *(word for option in options.items() for word in option)],
        env={**os.environ, "MEMBRIDGE_ADMIN_KEY": plane.key, "BLOOM_WORKER_DIR": str(tmp_path / "worker")},
        stderr=subprocess.PIPE,
    )
    yield process
    process.kill()
    process.communicate(timeout=PATIENCE_SEC)


def test_bloom_worker_is_an_agent_even_while_its_runtime_is_away(
    worker: subprocess.Popen[bytes], plane: Membridge, project: str
) -> None:
    name = f"worker {project}"
    agents = asyncio.run(_until(lambda: [a for a in plane.get("/agents").json() if a["name"] == name]))
    assert agents[0]["capabilities"]["max_concurrency"] == 2
    assert agents[0]["capabilities"]["claude_cli"] is False

    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=PATIENCE_SEC)
    assert worker.returncode == 0, said
    assert plane.key.encode() not in said
