"""What a usable address and a usable admin key of Membridge look like."""

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"
_FORM = "Must be an address like http://host:8000 or https://host/path"
_LONGEST_URL = 2048
_LONGEST_KEY = 1024


def check_url(text: str) -> str:
    """`text` as a base URL: http or https, a host, a sub-path kept, no slash at the end.

    Raises ValueError, for people, about anything else; the text itself is not quoted. It is read by the library that
    connects, so that no other host is checked than the one that is asked.
    """
    text = text.strip()
    if len(text) > _LONGEST_URL or not text.isprintable() or any(c.isspace() or c == "\\" for c in text):
        raise ValueError(f"{_FORM}, without spaces and control characters")
    try:
        url = httpx.URL(str(httpx.URL(text)))  # the second time the default port of a scheme in capitals is left out
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise ValueError(_FORM) from None
    if url.scheme not in ("http", "https") or not url.host or (url.port is not None and not 0 < url.port < 65536):
        raise ValueError(_FORM)
    if url.userinfo:
        raise ValueError("Must not hold a user name or password; the key has a field of its own")
    if "?" in text or "#" in text:
        raise ValueError(f"{_FORM}, without '?' and '#'")
    return str(url).rstrip("/")


def origin_of(url: str) -> str:
    """Scheme, host and port of `url`: a key is shown to the origin that it was given for and to no other."""
    parsed = httpx.URL(url)
    port = parsed.port or (443 if parsed.scheme == "https" else 80)
    return f"{parsed.scheme}://{parsed.host}:{port}"


def check_key(text: str) -> str:
    """`text` as the value of a header, without spaces around it. Raises ValueError, for people; quotes nothing of it."""
    text = text.strip()
    if not text or len(text) > _LONGEST_KEY or not (text.isascii() and text.isprintable()):
        raise ValueError(f"Must be 1 to {_LONGEST_KEY} printable ASCII characters")
    return text
