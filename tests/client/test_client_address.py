"""Where the runtime is looked for, and which addresses are taken."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bloom.base.errors import ConfigurationError, InvalidInput
from bloom.base.settings import ClientSettings, load
from bloom.client import RuntimeAddress, check_url, find_runtime, path_segment


@pytest.fixture(autouse=True)
def _clean_environment(  # pyright: ignore[reportUnusedFunction]
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    for name in ("BLOOM_URL", "PORT", "BLOOM_DATA_DIR", "BLOOM_API_KEY", "RUNTIME_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    yield


def write_endpoint(text: str, directory: str = ".bloom") -> None:
    Path(directory).mkdir(exist_ok=True)
    (Path(directory) / "endpoint").write_text(text)


def found(explicit: str | None = None) -> RuntimeAddress:
    return find_runtime(load(ClientSettings), explicit)


def test_the_sources_are_asked_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found() == RuntimeAddress("http://127.0.0.1:5000", "the default")
    monkeypatch.setenv("PORT", "8123")
    assert found() == RuntimeAddress("http://127.0.0.1:8123", "PORT")
    write_endpoint("http://127.0.0.1:5001\n")
    assert found().url == "http://127.0.0.1:5001"
    monkeypatch.setenv("BLOOM_URL", "https://vps.example/bloom/")
    assert found() == RuntimeAddress("https://vps.example/bloom", "BLOOM_URL")
    assert found("http://pi4:5000") == RuntimeAddress("http://pi4:5000", "--runtime")


def test_an_empty_endpoint_file_counts_as_none() -> None:
    write_endpoint("\n")
    assert found().source == "the default"


def test_an_unusable_endpoint_file_is_an_error_that_says_so() -> None:
    write_endpoint("rubbish")
    with pytest.raises(ConfigurationError, match="endpoint file"):
        found()


def test_a_file_in_a_foreign_checkout_cannot_have_the_key_sent_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    write_endpoint("http://evil.example\n")
    with pytest.raises(ConfigurationError, match="another machine"):
        found()
    monkeypatch.setenv("BLOOM_DATA_DIR", ".bloom")  # a person chose this directory
    assert found().url == "http://evil.example"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://h\n", "http://h"),
        (" https://host.example/a/b// ", "https://host.example/a/b"),
        ("http://[::1]:5000/", "http://[::1]:5000"),
    ],
)
def test_an_address_keeps_its_sub_path_and_loses_its_last_slash(text: str, url: str) -> None:
    assert check_url(text, "--runtime") == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host:5000",
        "ftp://host",
        "http://",
        "http:///x",
        "http://host:0",
        "http://host:99999",
        "http://h/?a=1",
        "http://h/#a",
        "http://a b",
        "http://h\x1b[31m",
        "http://[::1",
        "javascript:alert(1)",
    ],
)
def test_an_address_that_cannot_be_used_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--runtime"):
        check_url(text, "--runtime")


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_url("http://me:s3cret@host", "BLOOM_URL")
    assert "s3cret" not in refused.value.message


def test_an_id_is_one_segment_of_a_path() -> None:
    assert path_segment("a/b?c#d e%") == "a%2Fb%3Fc%23d%20e%25"
    for bad in ("", ".", "..", "a\nb"):
        with pytest.raises(InvalidInput):
            path_segment(bad)
