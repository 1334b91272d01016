"""One daemon per worker directory."""

import contextlib
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bloom.base.errors import ConfigurationError


@contextmanager
def sole_daemon(directory: Path) -> Generator[None]:
    """Hold the lock of the worker directory, which is made (mode 700) where it is not there.

    The kernel frees the lock with the process, however that ends. Raises ConfigurationError when another daemon holds
    it or the directory cannot be used.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(directory / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(
            f"the worker directory cannot be used ({error.strerror}); set BLOOM_WORKER_DIR"
        ) from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 32, 0).decode(errors="replace").strip() or "unknown"
            raise ConfigurationError(
                f"another worker daemon (process {holder}) uses this worker directory; a second one needs its own "
                "BLOOM_WORKER_DIR"
            ) from None
        with contextlib.suppress(OSError):  # the number is for the message above alone
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)
