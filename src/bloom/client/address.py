"""Where the runtime is: which setting names it, and what a usable address looks like."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from bloom.base.errors import ConfigurationError, InvalidInput
from bloom.base.settings import DEFAULT_PORT, ClientSettings

ENDPOINT_FILE = "endpoint"
"""A file in the data directory, one line: the URL at which the local runtime listens."""


@dataclass(frozen=True, slots=True)
class RuntimeAddress:
    """`url` without a slash at its end; `source` says for people where it comes from."""

    url: str
    source: str


def find_runtime(settings: ClientSettings, explicit: str | None = None) -> RuntimeAddress:
    """The runtime to talk to: `explicit` (--runtime), BLOOM_URL, the endpoint file, PORT, else port 5000 here.

    Raises ConfigurationError when the first of these that is set does not name a usable address.
    """
    if explicit is not None:
        return RuntimeAddress(check_url(explicit, "--runtime"), "--runtime")
    if settings.url is not None:
        return RuntimeAddress(check_url(settings.url, "BLOOM_URL"), "BLOOM_URL")
    if (url := _read_endpoint(settings)) is not None:
        return RuntimeAddress(url, "the endpoint file of the data directory")
    if settings.port is not None:
        return RuntimeAddress(f"http://127.0.0.1:{settings.port}", "PORT")
    return RuntimeAddress(f"http://127.0.0.1:{DEFAULT_PORT}", "the default")


def check_url(text: str, name: str) -> str:
    """`text` as a base URL: http or https, a host, a sub-path kept, no slash at the end.

    Raises ConfigurationError that speaks of `name`. A user name, password, query or fragment is refused: an address is
    shown in messages, so it must not carry a secret.
    """
    wanted = f"{name} must be an address like http://host:5000 or https://host/path"
    text = text.strip()
    if not text.isprintable() or any(character.isspace() for character in text):
        raise ConfigurationError(f"{wanted}, without spaces and control characters")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigurationError(wanted) from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ConfigurationError(wanted)
    if "@" in parts.netloc:
        raise ConfigurationError(f"{name} must not hold a user name or password; the key has a variable of its own")
    if parts.query or parts.fragment:
        raise ConfigurationError(f"{wanted}, without '?' and '#'")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine itself."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def path_segment(text: str) -> str:
    """`text` (an id, a name) as one segment of a URL path. Raises InvalidInput for what cannot be one."""
    if text in ("", ".", "..") or not text.isprintable():
        raise InvalidInput(f"{text!r} is not an id")
    return quote(text, safe="")


def _read_endpoint(settings: ClientSettings) -> str | None:
    path: Path = settings.data_dir / ENDPOINT_FILE
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            line = file.readline(4096).strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(
            f"the endpoint file of the data directory cannot be read ({error.strerror}); set BLOOM_URL"
        ) from None
    if not line:
        return None
    url = check_url(line, "the endpoint file of the data directory")
    # The default data directory lies below the working directory, which may be a checkout of somebody else's: a file in
    # it must not be able to have the key sent to another machine.
    if "data_dir" not in settings.model_fields_set and not is_loopback(url):
        raise ConfigurationError(
            "the endpoint file in .bloom names another machine; to use it set BLOOM_URL (or BLOOM_DATA_DIR)"
        )
    return url
