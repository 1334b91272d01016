"""A run whose lease is lost ends at once, whatever grace it was given and whatever it was told before."""

import asyncio
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from living import PATIENCE_SEC, marked, with_marker

from bloom.worker.child import running_child
from bloom.worker.executors.interface import StopReason, StopSignal
from bloom.worker.executors.supervision import supervise

pytestmark = pytest.mark.anyio

GRACE_SEC = 2 * PATIENCE_SEC

STUBBORN = """
import os, signal, time
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"interrupted"))
os.write(1, b"ready")
while True:
    time.sleep(1)
"""


@pytest.fixture
def marker() -> Generator[str]:
    with marked() as made:
        yield made


@pytest.mark.parametrize("before", [None, StopReason.CANCELLED, StopReason.SHUTDOWN])
async def test_a_child_that_ignores_an_interrupt_is_dead_without_a_grace_once_its_lease_is_lost(
    tmp_path: Path, marker: str, before: StopReason | None
) -> None:
    stop = StopSignal()
    interrupted = asyncio.Event()
    argv = [sys.executable, "-I", "-S", "-c", STUBBORN, marker]
    async with asyncio.timeout(PATIENCE_SEC):
        async with running_child(argv, env={}, cwd=tmp_path, lease_id=marker, grace_sec=GRACE_SEC) as child:

            async def read() -> None:
                said = b""
                while chunk := await child.read():
                    said += chunk
                    if b"interrupted" in said:
                        interrupted.set()
                    elif b"ready" in said and before is None:
                        stop.set(StopReason.LEASE_LOST)
                    elif b"ready" in said:
                        stop.set(before or StopReason.CANCELLED)

            supervised = asyncio.create_task(supervise(child, read(), time.monotonic() + GRACE_SEC, stop))
            if before is not None:
                await interrupted.wait()
                assert with_marker(marker)
                stop.set(StopReason.LEASE_LOST)
            assert await supervised
            assert with_marker(marker) == []
    assert stop.reason is (before or StopReason.LEASE_LOST)
