"""Where the object store is: `MINIO_ENDPOINT` is a host, a host with a port, or a URL."""

from urllib.parse import urlsplit

from bloom.base.errors import ConfigurationError

_FORM = "MINIO_ENDPOINT must be a host (minio.example), a host and a port (minio.example:9000) or a URL (https://minio.example)"


def endpoint_url(endpoint: str, *, port: int, port_given: bool, use_ssl: bool) -> str:
    """The origin (scheme, host, port) of the store.

    A scheme in `endpoint` decides about TLS, else `use_ssl`. A port in `endpoint` wins. Without one it is `port`, except
    for an `https://` URL when nobody set the port (`port_given`): that is a store behind a proxy or a public one, at 443.
    Raises ConfigurationError that names `MINIO_ENDPOINT` for anything else, a path or a password included.
    """
    text = endpoint.strip()
    has_scheme = "://" in text
    if not has_scheme and text.count(":") > 1 and not text.startswith("["):
        text = f"[{text}]"
    try:
        parts = urlsplit(text if has_scheme else f"//{text}")
        named_port = parts.port
    except ValueError:
        raise ConfigurationError(_FORM) from None
    scheme = parts.scheme or ("https" if use_ssl else "http")
    extras = (parts.path.strip("/"), parts.query, parts.fragment, parts.username, parts.password)
    if scheme not in ("http", "https") or not parts.hostname or any(extras) or any(map(str.isspace, text)):
        raise ConfigurationError(_FORM)
    if named_port is None:
        named_port = 443 if has_scheme and scheme == "https" and not port_given else port
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{scheme}://{host}:{named_port}"
