"""Named SQL: the loader, and that what is written is whole and used."""

import re
import sys
from pathlib import Path

import pytest

import bloom
from bloom.db.queries import load_queries

SOURCE = Path(bloom.__file__).parent
# Not named one by one in Python: a file for psql, and the invariants, of which test_invariants.py breaks each.
APART = {"embedded.sql", "invariants.sql"}
SQL_FILES = sorted(file.relative_to(SOURCE) for file in SOURCE.rglob("*.sql") if file.name not in APART)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of an importable package without a query yet."""
    directory = tmp_path / "slice_of_a_test"
    directory.mkdir()
    (directory / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "slice_of_a_test", raising=False)
    return directory


def load(package: Path, text: str, name: str = "queries.sql") -> dict[str, bytes]:
    (package / name).write_text(text)
    return load_queries(package.name, name)


def test_each_block_is_a_statement_under_its_name_comments_included(package: Path) -> None:
    text = "-- What this file is about.\n\n-- name: one\n-- Purpose.\nselect 1;\n\n-- name: two\n-- Other.\nselect '-- x';\n"
    queries = load(package, text)
    assert list(queries) == ["one", "two"]
    assert queries["one"].startswith(b"-- Purpose.\nselect 1;") and b"select '-- x'" in queries["two"]


@pytest.mark.parametrize(
    "text",
    [
        "select 1;\n-- name: one\n-- Purpose.\nselect 1;\n",
        "-- name: one\nselect 1;\n",
        "-- name: one\n-- Purpose.\nselect 1;\n-- name: one\n-- Purpose.\nselect 2;\n",
    ],
    ids=["SQL before the first block", "a block without its purpose", "a name used twice"],
)
def test_a_file_that_breaks_the_rules_is_refused(package: Path, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape("queries.sql")):
        load(package, text)


def test_a_name_is_used_once_across_the_files_of_a_slice(package: Path) -> None:
    for name in ("a.sql", "b.sql"):
        (package / name).write_text("-- name: one\n-- Purpose.\nselect 1;\n")
    with pytest.raises(ValueError, match="twice"):
        load_queries(package.name, "a.sql", "b.sql")


@pytest.mark.parametrize("file", SQL_FILES, ids=str)
def test_every_statement_of_the_program_is_used(file: Path) -> None:
    package = ".".join(("bloom", *file.parent.parts))
    queries = load_queries(package, file.name)
    assert queries
    python = "\n".join(module.read_text() for module in (SOURCE / file.parent).glob("*.py"))
    assert [name for name in queries if f'"{name}"' not in python] == []


def test_sql_stands_in_sql_files_alone() -> None:
    statement = re.compile(r'"(select .+ from|insert into|update [a-z_.]+ set|delete from) ', re.IGNORECASE)
    # What `sync` asks SQLite is made from the tables that it finds; migrations know no tables of ours but that of their own.
    ours = (file for file in SOURCE.rglob("*.py") if file.parent.name != "sync")
    assert {file.name for file in ours if statement.search(file.read_text())} == {"migrate.py", "env.py"}
