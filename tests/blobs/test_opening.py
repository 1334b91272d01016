"""Which store the settings ask for."""

from pathlib import Path

import pytest

from bloom.base.errors import ConfigurationError
from bloom.base.settings import ServerSettings, load
from bloom.blobs.endpoint import endpoint_url
from bloom.blobs.local import DirectoryBlobs
from bloom.blobs.open import open_blob_store
from bloom.blobs.s3 import S3Blobs

KEYS = {"MINIO_ACCESS_KEY": "ak", "MINIO_SECRET_KEY": "the-secret-key"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "PORT", "ACCESS_KEY", "SECRET_KEY", "ARTIFACT_BUCKET", "USE_SSL", "REGION"):
        monkeypatch.delenv(f"MINIO_{name}", raising=False)
    monkeypatch.delenv("BLOOM_BLOB_DIR", raising=False)


@pytest.mark.parametrize(
    ("endpoint", "use_ssl", "origin"),
    [
        ("minio", False, "http://minio:9000"),
        ("minio", True, "https://minio:9000"),
        (" minio.example ", False, "http://minio.example:9000"),
        ("minio:9100", False, "http://minio:9100"),
        ("192.0.2.1:80", False, "http://192.0.2.1:80"),
        ("::1", False, "http://[::1]:9000"),
        ("[::1]", False, "http://[::1]:9000"),
        ("[::1]:9100", False, "http://[::1]:9100"),
        ("http://minio", False, "http://minio:9000"),
        ("http://minio:9000/", False, "http://minio:9000"),
        ("http://minio", True, "http://minio:9000"),
        ("https://minio.example", False, "https://minio.example:443"),
        ("https://minio.example:9000", False, "https://minio.example:9000"),
    ],
)
def test_an_endpoint_is_a_host_a_host_with_a_port_or_a_url(endpoint: str, use_ssl: bool, origin: str) -> None:
    assert endpoint_url(endpoint, port=9000, port_given=False, use_ssl=use_ssl) == origin


def test_a_port_that_was_set_goes_before_443() -> None:
    assert endpoint_url("https://m", port=9000, port_given=True, use_ssl=False) == "https://m:9000"
    assert endpoint_url("https://m:1", port=9000, port_given=True, use_ssl=False) == "https://m:1"


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        " ",
        "http://",
        "ftp://m",
        "http://m/path",
        "http://u:p@m",
        "m:port",
        "m:99999",
        "a b",
        "http://m?x=1",
        "http://[::1",
    ],
)
def test_any_other_endpoint_is_named(endpoint: str) -> None:
    with pytest.raises(ConfigurationError, match="MINIO_ENDPOINT must be"):
        endpoint_url(endpoint, port=9000, port_given=False, use_ssl=False)


def test_without_settings_there_is_no_store() -> None:
    assert open_blob_store(load(ServerSettings)) is None


def test_a_directory_can_be_asked_for(tmp_path: Path) -> None:
    store = open_blob_store(load(ServerSettings, BLOOM_BLOB_DIR=str(tmp_path / "blobs")))
    assert isinstance(store, DirectoryBlobs)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigurationError, match="BLOOM_BLOB_DIR") as caught:
        open_blob_store(load(ServerSettings, BLOOM_BLOB_DIR=str(tmp_path / "file" / "blobs")))
    assert str(tmp_path) not in caught.value.message


def test_an_endpoint_goes_before_a_directory(tmp_path: Path) -> None:
    store = open_blob_store(load(ServerSettings, MINIO_ENDPOINT="m", BLOOM_BLOB_DIR=str(tmp_path), **KEYS))
    assert isinstance(store, S3Blobs)
    assert store.url("k") == "minio://bloom-artifacts/k"


@pytest.mark.parametrize("missing", ["MINIO_ACCESS_KEY", "MINIO_SECRET_KEY"])
def test_an_endpoint_without_a_key_is_named(missing: str) -> None:
    given = {name: value for name, value in KEYS.items() if name != missing}
    with pytest.raises(ConfigurationError, match=missing) as caught:
        open_blob_store(load(ServerSettings, MINIO_ENDPOINT="m", **given))
    assert "the-secret-key" not in caught.value.message


@pytest.mark.parametrize(("name", "value"), [("MINIO_ARTIFACT_BUCKET", "Not A Bucket"), ("MINIO_REGION", "</x>")])
def test_a_bad_bucket_or_region_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        open_blob_store(load(ServerSettings, MINIO_ENDPOINT="m", **KEYS, **{name: value}))
