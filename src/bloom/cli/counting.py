"""How far a long command is, on stderr."""

import sys

from bloom.cli.terminal import is_terminal

_TELL_EVERY = 10_000


class Counting:
    """Tells a count in words: on a terminal each time, on one line; in a log from time to time."""

    def __init__(self, done: str, what: str) -> None:
        self._done, self._what = done, what
        self._told = 0

    def __call__(self, count: int) -> None:
        on_terminal = is_terminal(sys.stderr)
        if on_terminal or count >= self._told + _TELL_EVERY:
            self._told = count
            print(
                f"{self._done} {count} {self._what}",
                end="\r" if on_terminal else "\n",
                file=sys.stderr,
                flush=True,
            )

    def end(self) -> None:
        """Leave nothing of it on a terminal."""
        if self._told and is_terminal(sys.stderr):
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
