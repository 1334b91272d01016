"""The runtime hears how the machine is doing, and a worker under pressure takes nothing new."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.stubs.runtime import PATIENCE_SEC, Fault, fake_runtime
from worker_daemon import (
    ScriptedExecutor,
    daemon,
    echo,
    options_for,
    run_until_stopped,
    with_pace,
)

from bloom.worker.board import BoardWatch, measure
from bloom.worker.config import LimitSettings, load_worker_config
from bloom.worker.executors.interface import Emit, Report, RunTask, StopSignal
from bloom.workers.schemas import Board

pytestmark = pytest.mark.anyio

MB = 1024**2
ROOMY = Board(free_memory_bytes=2000 * MB, load_1m=0.1, cores=4, temperature_c=40.0, free_disk_bytes=9000 * MB)
LIMITS = LimitSettings(min_free_memory_mb=100, min_free_disk_mb=100, max_load_per_core=2.0, max_temperature_c=80)
PACE = with_pace(board_sec=0.01, tell_sec=0.01)


class Machine:
    """A machine that is what the test says. The daemon looks at it in a thread."""

    def __init__(self, board: Board = ROOMY) -> None:
        self.board = board
        self._looks: set[asyncio.Event] = set()
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> Board:
        for event in tuple(self._looks):
            self._loop.call_soon_threadsafe(event.set)
        return self.board

    async def looked_at(self) -> None:
        """Wait until the daemon has seen what the machine now is: the second look from now begins after the first's end."""
        for _ in range(2):
            event = asyncio.Event()
            self._looks.add(event)
            await asyncio.wait_for(event.wait(), PATIENCE_SEC)
            self._looks.discard(event)

    def change(self, **measured: Any) -> None:
        self.board = ROOMY.model_copy(update=measured)


async def judged(watch: BoardWatch, machine: Machine, name: str, values: Sequence[float | None]) -> list[bool]:
    """Whether the worker is under pressure after each of `values`."""
    found: list[bool] = []
    for value in values:
        machine.change(**{name: value})
        await watch.look()
        found.append(watch.pressed)
        assert bool(watch.board().pressure) is watch.pressed
    return found


async def test_this_machine_is_measured(tmp_path: Path) -> None:
    board = measure(tmp_path)
    assert board.total_memory_bytes == psutil.virtual_memory().total
    assert 0 < (board.free_memory_bytes or 0) <= (board.total_memory_bytes or 0)
    assert board.free_disk_bytes and board.cores
    assert board.pressure == []
    assert Board.model_validate(board.model_dump()) == board


@pytest.mark.parametrize("sensors", [{}, {"nvme": [90.0]}, None])
async def test_a_machine_without_a_sensor_of_its_processor_has_no_temperature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sensors: dict[str, list[float]] | None
) -> None:
    def read() -> dict[str, list[Any]]:
        if sensors is None:
            raise OSError("no such device")
        return {name: [SensorOf(value) for value in values] for name, values in sensors.items()}

    monkeypatch.setattr(psutil, "sensors_temperatures", read, raising=False)
    assert measure(tmp_path).temperature_c is None


@dataclass
class SensorOf:
    current: float


async def test_the_hottest_sane_sensor_of_the_processor_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"cpu_thermal": [SensorOf(51.23), SensorOf(60.0)], "coretemp": [SensorOf(-273.0)], "nvme": [SensorOf(88.0)]}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: found, raising=False)
    assert measure(tmp_path).temperature_c == 60.0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("free_memory_bytes", [200 * MB, 99 * MB, 101 * MB, 124 * MB, 125 * MB, 101 * MB, None]),
        ("free_disk_bytes", [200 * MB, 99 * MB, 101 * MB, 124 * MB, 125 * MB, 101 * MB, None]),
        ("load_1m", [7.9, 8.1, 7.9, 6.5, 6.4, 7.9, None]),
        ("temperature_c", [79.9, 80.1, 79.9, 75.1, 75.0, 79.9, None]),
    ],
)
async def test_pressure_begins_beyond_a_limit_and_ends_some_way_before_it(
    name: str, values: Sequence[float | None]
) -> None:
    machine = Machine()
    watch = BoardWatch(LIMITS, machine, 1)
    assert await judged(watch, machine, name, values) == [False, True, True, True, False, False, False]


async def test_limits_that_are_off_never_press() -> None:
    machine = Machine(Board(free_memory_bytes=0, free_disk_bytes=0, load_1m=99.0, cores=1, temperature_c=120.0))
    watch = BoardWatch(LimitSettings(min_free_memory_mb=0, min_free_disk_mb=0), machine, 1)
    await watch.look()
    assert not watch.pressed


async def test_pressure_is_logged_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    machine = Machine()
    watch = BoardWatch(LIMITS, machine, 1)
    await judged(watch, machine, "free_memory_bytes", [50 * MB, 40 * MB, 30 * MB, 500 * MB, 600 * MB])
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "free memory is 50 MB (limit 100, again at 125)" in caplog.text


async def test_a_worker_that_is_unfit_says_so_beside_its_pressure() -> None:
    watch = BoardWatch(LIMITS, Machine(ROOMY.model_copy(update={"temperature_c": 90.0})), 1, lambda: "log in " * 100)
    await watch.look()
    hot, unfit = watch.board().pressure
    assert "temperature is 90 °C" in hot
    assert Board.model_validate(watch.board().model_dump()) == watch.board()
    assert unfit.startswith("log in")


async def test_claims_and_extends_carry_the_board(worker_directory: Path) -> None:
    executor = ScriptedExecutor(run_until_stopped)
    async with fake_runtime() as runtime, daemon(options_for(runtime, pace=PACE), executor, look=Machine()):
        await runtime.add_task()
        await runtime.until(lambda: runtime.bodies("extend"))
        for body in (runtime.bodies("claim")[0], runtime.bodies("extend")[0]):
            assert Board.model_validate(body["board"]) == ROOMY


async def test_a_worker_under_pressure_is_heard_of_claims_nothing_and_goes_on_when_there_is_room(
    worker_directory: Path,
) -> None:
    executor = ScriptedExecutor(echo)
    machine = Machine()
    machine.change(free_memory_bytes=MB)
    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        async with daemon(options_for(runtime, pace=PACE), executor, limits=LIMITS, look=machine):
            await runtime.until(lambda: len(runtime.bodies("extend")) >= 3)
            assert runtime.bodies("claim") == []
            assert runtime.bodies("extend")[0]["leases"] == []
            assert "free memory is 1 MB" in runtime.bodies("extend")[0]["board"]["pressure"][0]
            machine.change()
            await runtime.until(lambda: task.status == "completed")
            assert runtime.bodies("claim")[0]["board"]["pressure"] == []


async def test_what_is_granted_to_a_claim_while_pressure_begins_is_handed_back(worker_directory: Path) -> None:
    executor = ScriptedExecutor(echo)
    machine = Machine()
    async with (
        fake_runtime() as runtime,
        daemon(options_for(runtime, pace=PACE), executor, limits=LIMITS, look=machine),
    ):
        await runtime.until(lambda: runtime.bodies("claim"))
        machine.change(temperature_c=90.0)
        await machine.looked_at()
        task = await runtime.add_task()
        await runtime.until(lambda: task.completion)
        assert (task.status, task.attempts, executor.tasks) == ("queued", 0, [])
        machine.change()
        await runtime.until(lambda: task.status == "completed")


async def test_what_runs_goes_on_under_pressure(worker_directory: Path) -> None:
    machine = Machine()

    async def run(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        machine.change(load_1m=50.0)
        await runtime.until(lambda: runtime.bodies("extend") and runtime.bodies("extend")[-1]["board"]["pressure"])
        return await echo(task, emit, stop)

    async with fake_runtime() as runtime:
        task = await runtime.add_task()
        async with daemon(options_for(runtime, pace=PACE), ScriptedExecutor(run), limits=LIMITS, look=machine):
            await runtime.until(lambda: task.status == "completed")


async def test_an_unfit_worker_is_heard_of_too(worker_directory: Path) -> None:
    async def no_login(task: RunTask, emit: Emit, stop: StopSignal) -> Report:
        return Report("error", None, "log in first", "login", retryable=True, metrics={"duration_ms": 1})

    async with fake_runtime() as runtime:
        await runtime.add_task()
        runtime.script("extend", Fault(status=503))
        async with daemon(options_for(runtime, pace=PACE), ScriptedExecutor(no_login)):
            await runtime.until(lambda: len([b for b in runtime.bodies("extend") if not b["leases"]]) >= 2)
            assert runtime.bodies("extend")[-1]["board"]["pressure"] == ["log in first"]


def test_limits_come_from_the_config_file(tmp_path: Path) -> None:
    path = tmp_path / "worker.toml"
    path.write_text("[limits]\nmin_free_memory_mb = 64\nmax_temperature_c = 75\n")
    limits = load_worker_config(path).limits
    assert (limits.min_free_memory_mb, limits.max_temperature_c, limits.max_load_per_core) == (64, 75, None)
