"""The worker's directories."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloom.worker.workspace import Workspace, file_inside, is_inside, safe_name


@given(st.text(alphabet=st.characters(), max_size=300))
def test_any_id_makes_a_plain_name(key: str) -> None:
    name = safe_name(key)
    assert name.isascii()
    assert name == name.lower()
    assert len(name) <= 80
    assert not set(name) & set("/\\ \x00\n")
    assert not name.startswith((".", "-"))


def test_names_are_readable_and_never_the_same_for_two_ids() -> None:
    keys = ["a", "A", "a ", "a/", "../a", "ä", "a\u0308", "", ".", "..", "x" * 300, "x" * 301, "\ud800", "\ud801"]
    assert len({safe_name(key) for key in keys}) == len(keys)
    assert safe_name("Project/Site 1").startswith("project-site-1-")


def test_a_context_has_a_directory_of_its_own_for_this_user_only(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "made" / "when" / "missing")
    first = workspace.working_directory("context")
    assert first == workspace.working_directory("context")
    assert first != workspace.working_directory("Context")
    assert first.is_dir()
    assert first.stat().st_mode & 0o077 == 0
    assert workspace.output_directory().is_dir()


def test_a_configured_directory_is_used_as_it_is_and_must_be_there(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert workspace.working_directory("context", str(tmp_path)) == tmp_path
    for wrong in ("missing", "file"):
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match=r"No such file|Not a directory"):
            workspace.working_directory("context", str(tmp_path / wrong))


def test_links_are_followed_to_see_what_is_inside(tmp_path: Path) -> None:
    directory = tmp_path / "room"
    directory.mkdir()
    (directory / "file").touch()
    (tmp_path / "room-not").mkdir()
    (tmp_path / "room-not" / "file").touch()
    (directory / "loop").symlink_to("loop")
    (tmp_path / "other-way").symlink_to(directory)
    assert is_inside("file", directory)
    assert is_inside(str(directory / "file"), tmp_path / "other-way")
    assert not is_inside("../room-not/file", directory)
    assert not is_inside("..", directory)
    assert file_inside("file", tmp_path / "other-way") == "file"
    assert file_inside("../room/file", directory) == "file"
    assert file_inside("../room-not/file", directory) is None
    assert file_inside("loop", directory) is None
    assert file_inside("", directory) is None
    assert is_inside("tmp", Path("/"))
