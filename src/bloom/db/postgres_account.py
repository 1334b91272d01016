"""Under which account PostgreSQL runs: it refuses to be root.

A plain user runs it as himself. Root runs it in a user namespace, where it is a plain user to itself and its files stay
root's. Where namespaces are closed (some containers), root gives it to the account `postgres`, else `nobody`; and when
these cannot pass a directory on the way (a checkout below /root), with the one capability to pass it, which root has.
"""

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bloom.base.errors import ConfigurationError

# What PostgreSQL's programs need of the environment; nothing of it is a secret, and no PG* variable bends a setting.
_KEPT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
_PROBE_TIMEOUT_SEC = 10


@dataclass(frozen=True)
class Account:
    """Starts PostgreSQL's programs under one account. `uid` and `gid` are those its files must have, seen from here."""

    uid: int
    gid: int
    switches: bool = False
    prefix: tuple[str, ...] = ()

    def start(
        self, argv: Sequence[str], *, output: BinaryIO, stdin: int | BinaryIO | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `argv` (the pid is the program's own) in a session of its own; stdout and stderr go to `output`."""
        command = [*self.prefix, *argv]
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | {"LC_ALL": "C"}
        source = subprocess.DEVNULL if stdin is None else stdin
        if self.switches:
            return subprocess.Popen(
                command, stdin=source, stdout=output, stderr=output, env=environment, cwd="/", start_new_session=True,
                user=self.uid, group=self.gid, extra_groups=[],
            )  # fmt: skip
        return subprocess.Popen(
            command, stdin=source, stdout=output, stderr=output, env=environment, cwd="/", start_new_session=True
        )

    def answer_of(self, argv: Sequence[str]) -> str | None:
        """What `argv` prints when this account runs it, or None when it cannot or the program fails."""
        read_end, write_end = os.pipe()
        with os.fdopen(read_end, "rb") as answers, os.fdopen(write_end, "wb") as output:
            try:
                process = self.start(argv, output=output)
            except OSError:
                return None
            output.close()
            try:
                code = process.wait(_PROBE_TIMEOUT_SEC)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return None
            return answers.read().decode(errors="replace") if code == 0 else None

    def can_enter(self, directory: Path) -> bool:
        """Whether this account reaches `directory`."""
        return self.answer_of(["/bin/sh", "-c", 'cd -- "$1"', "sh", str(directory)]) is not None

    def take(self, tree: Path) -> None:
        """Make `tree` belong to this account; its root comes last, so that an interrupted change is seen and redone.

        Raises ConfigurationError (`data_dir_unusable`) for a plain user when it belongs to somebody else.
        """
        if tree.lstat().st_uid == self.uid:
            return
        if os.geteuid() != 0:
            raise ConfigurationError(
                "the database in the data directory belongs to another user: run as that one",
                code="data_dir_unusable",
                path=str(tree),
            )
        for directory, _, files in os.walk(tree, topdown=False):
            for name in files:
                os.lchown(Path(directory) / name, self.uid, self.gid)
            os.lchown(directory, self.uid, self.gid)


def possible_accounts(data_dir: Path) -> Iterator[Account]:
    """The accounts that may run PostgreSQL for this process and reach `data_dir`, best first.

    Effect for another account than the own one: its group may pass through `data_dir` (mode 710).
    """
    if os.geteuid() != 0:
        yield Account(os.geteuid(), os.getegid())
        return
    if (unshare := shutil.which("unshare")) is not None:
        inside = Account(0, 0, prefix=(unshare, "--user", "--map-user=1000", "--map-group=1000", "--"))
        if inside.can_enter(data_dir):
            yield inside
    others = [Account(entry.pw_uid, entry.pw_gid, switches=True) for entry in _entries("postgres", "nobody")]
    for other in others:
        with suppress(OSError):  # root of a container that has no other account
            os.chown(data_dir, 0, other.gid)
            data_dir.chmod(0o710)
            if other.can_enter(data_dir):
                yield other
    data_dir.chmod(0o700)
    if (setpriv := shutil.which("setpriv")) is not None:
        for other in others:
            identity = (f"--reuid={other.uid}", f"--regid={other.gid}", "--clear-groups")
            # The secure bit makes access(2), by which PostgreSQL looks for its own programs, honour the capability.
            passing = (
                "--securebits=+no_setuid_fixup",
                "--inh-caps=+dac_override",
                "--ambient-caps=+dac_override",
                "--",
            )
            able = Account(other.uid, other.gid, prefix=(setpriv, *identity, *passing))
            if able.can_enter(data_dir):
                yield able


def _entries(*names: str) -> Iterator[pwd.struct_passwd]:
    for name in names:
        with suppress(KeyError):
            yield pwd.getpwnam(name)
