"""A lifeline is the read end of a pipe whose write end a parent holds: end of file means that the parent is gone."""

import asyncio
import contextlib
import os


async def lifeline(fd: int) -> None:
    """Return when the other end of the pipe `fd` is closed, be it by `kill -9` of its holder. Closes `fd`."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    os.set_blocking(fd, False)
    loop.add_reader(fd, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            with contextlib.suppress(BlockingIOError):
                if not os.read(fd, 4096):
                    return
    finally:
        loop.remove_reader(fd)
        os.close(fd)
