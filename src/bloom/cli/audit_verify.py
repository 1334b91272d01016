"""`bloom audit verify`: the chain of hashes over the database, or over exported files."""

import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import typer

from bloom.audit.chain import OTHER_HASH, Findings, check_lines
from bloom.base.errors import ConfigurationError, InvalidInput
from bloom.cli.counting import Counting
from bloom.cli.exits import ExitCode
from bloom.cli.terminal import clean_line, print_json, short_duration

_EXPECTED = re.compile("([1-9][0-9]{0,17}):([0-9a-fA-F]{64})", re.ASCII)
_TELL_EVERY = 1000


def verify(files: Sequence[str], expect: Sequence[str], *, as_json: bool) -> None:
    """Verify the exported `files`, or the database when there are none, and tell. Raises typer.Exit(1) when it is broken."""
    expected = _expected_hashes(expect)
    began = time.monotonic()
    progress = Counting("verified", "entries")
    unsealed, unsealed_sec = None, None
    try:
        if files:
            found = _verify_files(files, expected, progress)
        else:
            from bloom.cli.audit_database import verify as look

            verdict = look(expected, progress)
            found, unsealed, unsealed_sec = verdict.found, verdict.unsealed, verdict.unsealed_sec
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    progress.end()
    seconds = round(time.monotonic() - began, 1)
    if as_json:
        tail = {} if unsealed is None else {"unsealed": unsealed, "oldest_unsealed_sec": unsealed_sec}
        print_json(
            {
                "ok": not found.broken,
                "sealed": found.count,
                "first": found.first_n,
                "last": found.last_n,
                "hash": found.hash.hex(),
                **tail,
                "seconds": seconds,
                "broken": found.broken,
                "problems": [asdict(problem) for problem in found.problems],
            }
        )
    else:
        for problem in found.problems:
            named = "" if problem.entry_id is None else f" (id {problem.entry_id})"
            print(f"entry {problem.n}{named} {problem.what}: {problem.says}")
        if found.broken > len(found.problems):
            print(f"and {found.broken - len(found.problems)} more")
        print(_summary(found, unsealed, unsealed_sec, seconds))
    if found.broken:
        raise typer.Exit(ExitCode.FAILED)


def _summary(found: Findings, unsealed: int | None, unsealed_sec: float | None, seconds: float) -> str:
    said = f"{found.count} sealed entries verified" if not found.broken else f"{found.broken} problems"
    if found.count:
        said += f", numbers {found.first_n} to {found.last_n} ({seconds} s)\n{found.last_n}:{found.hash.hex()}"
    if unsealed:
        age = "" if unsealed_sec is None else f", the oldest for {short_duration(unsealed_sec)}"
        said += f"\n{unsealed} entries wait for their seal{age}"
    return said


def _expected_hashes(texts: Sequence[str]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for text in texts:
        if not (match := _EXPECTED.fullmatch(text)):
            raise InvalidInput("--expect must be N:HASH, the number of an entry and 64 hexadecimal digits")
        found[int(match[1])] = bytes.fromhex(match[2])
    return found


def _verify_files(files: Sequence[str], expected: Mapping[int, bytes], progress: Callable[[int], None]) -> Findings:
    found, open_ones = Findings(), dict(expected)
    for name in files:
        with _opened(name) as lines:
            for _ in check_lines(found, lines):
                if open_ones.pop(found.last_n, found.hash) != found.hash:
                    found.add(found.last_n, None, "changed", OTHER_HASH)
                if found.count % _TELL_EVERY == 0:
                    progress(found.count)
    for n in sorted(open_ones):
        found.add(n, None, "removed", "the entry with this number is not in the files")
    return found


def _opened(name: str) -> AbstractContextManager[BinaryIO]:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise ConfigurationError(f"--file {clean_line(name)}: {error.strerror}") from None
