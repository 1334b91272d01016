"""This machine: for which of its users something is done, and what runs its services."""

import os
import pwd
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bloom.base.errors import ConfigurationError

Init = Literal["systemd", "openrc"]


@dataclass(frozen=True)
class Person:
    """The user of this machine that something is done for. `by_root`: this process is root."""

    name: str
    uid: int
    gid: int
    home: Path
    by_root: bool

    @property
    def is_root_for_another(self) -> bool:
        """Whether root does it for somebody else."""
        return self.by_root and self.uid != 0


def this_person(named: str | None) -> Person:
    """The user of this process or, for root, the user `named`. Raises ConfigurationError for one that cannot be meant."""
    uid = os.geteuid()
    try:
        found = pwd.getpwuid(uid) if named is None else pwd.getpwnam(named)
    except KeyError:
        if named is not None:
            raise ConfigurationError(f"--user: there is no user {named!r} on this machine") from None
        return Person(str(uid), uid, os.getegid(), Path.home(), by_root=uid == 0)  # a container's nameless user
    if found.pw_uid != uid and uid != 0:
        raise ConfigurationError("--user is for root; everybody else joins for themselves")
    home = Path.home() if found.pw_uid == uid else Path(found.pw_dir)
    return Person(found.pw_name, found.pw_uid, found.pw_gid, home, by_root=uid == 0)


@contextmanager
def acting_as(person: Person | None) -> Generator[None]:
    """Within it root touches files with the rights of `person`, who may have laid links in root's way. Else nothing."""
    if person is None or not person.is_root_for_another:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    try:
        os.initgroups(person.name, person.gid)
        os.setegid(person.gid)
        os.seteuid(person.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def init_system() -> Init | None:
    """What runs the services of this machine; None for anything but systemd and OpenRC."""
    if Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return "systemd"
    return "openrc" if Path("/run/openrc").is_dir() else None
