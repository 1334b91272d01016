"""A login that several runs of the Claude CLI share: at most one of them may come to refresh its token.

Who logs in by `/login` gets an access token for some hours and a refresh token that is good for one use. The CLI refreshes
on its own, from five minutes before the end of the access token on, and processes that do so at once log each other out (issues
43392, 88947 and 95822 of anthropics/claude-code). Its own lock (2.1.197: `.oauth_refresh.lock`) is given up after ten
seconds and waited for about as long, too little for a small board under load.

So a run that could live to see those five minutes goes alone among those of its login that could: it holds a lock (flock(2), so
that it counts for all workers of this user) until the token was renewed or the run is over. All other runs go side by side.

Keys, and the tokens of `claude setup-token` (CLAUDE_CODE_OAUTH_TOKEN), are never refreshed and need no lock. On macOS the login
lies in the Keychain, where its end cannot be seen: there the CLI's own lock is all there is.
"""

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bloom.worker.executors.interface import StopSignal
from bloom.worker.waiting import pause

log = logging.getLogger("bloom.worker")

REFRESH_SEC = 300
"""The CLI refreshes a token whose end is no further away than this (2.1.197 to 2.1.277)."""

LOCK_FILE = ".bloom-refresh.lock"
"""Its name in the configuration directory."""

_SLACK_SEC = 60  # for a run that is slow to start or to die
_LOOK_SEC = 0.5

# With one of these the CLI does not look at the login.
_OTHER_WAYS_IN = (
    *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN"),
    *("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"),
)


@dataclass(frozen=True)
class SharedLogin:
    """The login in a configuration directory of the CLI."""

    directory: Path

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "SharedLogin | None":
        """The login that a CLI with this environment uses; None when it uses none that could be refreshed."""
        if any(environment.get(name) for name in _OTHER_WAYS_IN):
            return None
        named = environment.get("CLAUDE_CONFIG_DIR")
        home = environment.get("HOME")
        if not named and not home:
            return None
        login = cls(Path(named) if named else Path(str(home)) / ".claude")
        return None if login.token_ends_at() is None else login

    def token_ends_at(self) -> float | None:
        """When the access token ends, in epoch seconds; None when there is none that the CLI would refresh."""
        try:
            known: Any = json.loads((self.directory / ".credentials.json").read_bytes())
            token = known["claudeAiOauth"]
            return float(token["expiresAt"]) / 1000 if token["refreshToken"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def may_be_refreshed_within(self, seconds: float) -> bool:
        """Whether a run that goes on for up to so many seconds from now could come to refresh the token."""
        ends_at = self.token_ends_at()
        return ends_at is not None and time.time() + seconds + _SLACK_SEC >= ends_at - REFRESH_SEC


@asynccontextmanager
async def refreshing_alone(
    login: SharedLogin | None, longest_sec: float, stop: StopSignal, on_wait: Callable[[], Awaitable[None]]
) -> AsyncGenerator[None]:
    """Within this block a run of up to `longest_sec` seconds may be started: no other one would refresh the token beside it.

    Waits for that, after `on_wait` was called, or until `stop`: look at it inside. Where the lock cannot be used the run
    goes on without it.
    """
    lock = None if login is None else await _lock(login, longest_sec, stop, on_wait)
    if login is None or lock is None:
        yield
        return
    watching = asyncio.create_task(_unlock_when_renewed(lock, login, longest_sec))
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait({watching})
        os.close(lock)


async def _lock(
    login: SharedLogin, longest_sec: float, stop: StopSignal, on_wait: Callable[[], Awaitable[None]]
) -> int | None:
    """The open lock file, locked; None when the run needs no lock, or no run."""
    if not login.may_be_refreshed_within(longest_sec):
        return None
    try:
        file = os.open(login.directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        log.warning("the login of the Claude CLI cannot be locked: %s", error.strerror)
        return None
    waited = False
    try:
        while login.may_be_refreshed_within(longest_sec) and stop.reason is None:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if login.may_be_refreshed_within(longest_sec):
                    return file
                break  # who held the lock has renewed the token
            if not waited:
                waited = True
                await on_wait()
            await pause(_LOOK_SEC, stop.event)
    except OSError as error:  # a file system without locks
        log.warning("the login of the Claude CLI cannot be locked: %s", error.strerror)
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None


async def _unlock_when_renewed(lock: int, login: SharedLogin, longest_sec: float) -> None:
    """Let others go on as soon as the token is renewed: the run itself may last long."""
    while True:
        await asyncio.sleep(_LOOK_SEC)
        if not login.may_be_refreshed_within(longest_sec):
            fcntl.flock(lock, fcntl.LOCK_UN)
            return
