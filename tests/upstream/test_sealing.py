"""Secrets in the database: opened with the same key and for the same purpose, and by nothing else."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bloom.base.errors import Unavailable
from bloom.upstream.sealing import KEY_FILE, Sealer


def test_a_sealed_text_is_opened_for_the_same_purpose_by_any_process_with_the_same_key(tmp_path: Path) -> None:
    sealed = Sealer(tmp_path, None).seal("the secret", "a")
    assert b"the secret" not in sealed
    assert Sealer(tmp_path, None).unseal(sealed, "a") == "the secret"
    assert Sealer(tmp_path, None).unseal(sealed, "b") is None
    by_words = Sealer(tmp_path, "words").seal("the secret", "a")
    assert Sealer(tmp_path / "elsewhere", "words").unseal(by_words, "a") == "the secret"


def test_the_same_text_is_sealed_differently_each_time(tmp_path: Path) -> None:
    sealer = Sealer(tmp_path, None)
    assert sealer.seal("the secret", "a") != sealer.seal("the secret", "a")


def test_the_key_file_is_private_made_once_and_nothing_else_is_left(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "data"

    def seal(number: int) -> bytes:
        return Sealer(directory, None).seal(str(number), "a")

    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(seal, range(16)))
    assert [Sealer(directory, None).unseal(one, "a") for one in sealed] == [str(n) for n in range(16)]
    assert [path.name for path in directory.iterdir()] == [KEY_FILE]
    assert stat.S_IMODE((directory / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_key_file_that_others_could_read_is_closed(tmp_path: Path) -> None:
    sealed = Sealer(tmp_path, None).seal("the secret", "a")
    (tmp_path / KEY_FILE).chmod(0o644)
    assert Sealer(tmp_path, None).unseal(sealed, "a") == "the secret"
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_with_another_key_or_damaged_a_secret_cannot_be_read_and_nothing_breaks(tmp_path: Path) -> None:
    sealed = Sealer(tmp_path, None).seal("the secret", "a")
    assert Sealer(tmp_path, "words").unseal(sealed, "a") is None
    assert Sealer(tmp_path / "elsewhere", None).unseal(sealed, "a") is None
    assert not (tmp_path / "elsewhere").exists()
    for damaged in (b"", sealed[:5], sealed[:-1], bytes([sealed[0] ^ 1]) + sealed[1:]):
        assert Sealer(tmp_path, None).unseal(damaged, "a") is None


def test_where_no_key_file_can_be_made_nothing_is_sealed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / KEY_FILE).write_text("")
    for directory in (tmp_path / "file", tmp_path):
        with pytest.raises(Unavailable) as error:
            Sealer(directory, None).seal("the secret", "a")
        assert error.value.code == "secret_key_unavailable" and str(tmp_path) not in error.value.message
