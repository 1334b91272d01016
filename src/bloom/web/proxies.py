"""Who the client is, and whether it came over TLS, when a reverse proxy stands in between.

`X-Forwarded-*` is believed only from trusted proxies. In `X-Forwarded-For` each proxy adds its peer on the right, so
the right-most address that is not a trusted proxy is the client; what stands left of it anyone can have written.
"""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bloom.base.errors import ConfigurationError, InvalidInput
from bloom.web.asgi import header, header_values, raw_path
from bloom.web.errors import error_response

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_MOST_HOPS = 32


def parse_trusted_proxies(text: str) -> tuple[Network, ...]:
    """The networks of a comma list of addresses and CIDR blocks; `none` for no proxy at all.

    Raises ConfigurationError that names `BLOOM_TRUSTED_PROXIES`.
    """
    if text.strip().lower() == "none":
        return ()
    try:
        return tuple(ip_network(entry.strip()) for entry in text.split(",") if entry.strip())
    except ValueError:
        raise ConfigurationError(
            "BLOOM_TRUSTED_PROXIES must be a comma list of addresses or CIDR blocks, such as 127.0.0.1,::1,10.0.0.0/8"
            " (a block has no bits set after its prefix), or none"
        ) from None


def parse_address(text: str) -> Address | None:
    """The address in `text`, which may carry a port, brackets or a zone, or None; IPv4 inside IPv6 becomes IPv4."""
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


@lru_cache(maxsize=4096)
def client_key(host: str) -> str:
    """Whom an address stands for: itself, or for IPv6 its /64, which is what one subscriber gets (RFC 6177)."""
    address = parse_address(host)
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address), 64), strict=False))
    return host if address is None else str(address)


def client_of(scope: Scope) -> str:
    """The address of whoever sends the request, as trusted proxies say; `unknown` for one without (a Unix socket)."""
    client: tuple[str, int] | None = scope.get("client")
    return client[0] if client else "unknown"


class ProxyHeadersMiddleware:
    """Sets the scope's `client` and `scheme` to what trusted proxies say.

    With `redirect_to_https` a request that its proxy took over plain HTTP is answered 301 to https, same host and path.
    Of several values of `X-Forwarded-Proto` the left-most counts, the client's own hop.
    """

    def __init__(self, app: ASGIApp, *, trusted: tuple[Network, ...], redirect_to_https: bool = False) -> None:
        self.app = app
        self._trusted = trusted
        self._redirect_to_https = redirect_to_https
        self._hop = lru_cache(maxsize=4096)(self._read_hop)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer: tuple[str, int] | None = scope.get("client")
        if scope["type"] != "http" or peer is None or not self._hop(peer[0])[1]:
            await self.app(scope, receive, send)
            return
        if (client := self._client(scope)) is not None:
            scope["client"] = (client, 0)
        scheme = b",".join(header_values(scope, b"x-forwarded-proto")).split(b",", 1)[0].strip().lower()
        if scheme in (b"http", b"https"):
            scope["scheme"] = scheme.decode()
            if scheme == b"http" and self._redirect_to_https:
                await _to_https(scope)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _read_hop(self, text: str) -> tuple[str | None, bool]:
        """The address in `text`, normalized, and whether it is a trusted proxy."""
        address = parse_address(text)
        if address is None:
            return None, False
        return str(address), any(address in network for network in self._trusted)

    def _client(self, scope: Scope) -> str | None:
        values = header_values(scope, b"x-forwarded-for")
        if not values:
            return None
        found: str | None = None
        for hop in reversed(b",".join(values).decode("latin-1").rsplit(",", _MOST_HOPS)):
            address, trusted = self._hop(hop[:64])
            if address is None:
                break
            found = address
            if not trusted:
                break
        return found


def _to_https(scope: Scope) -> Response:
    named = header(scope, b"x-forwarded-host") or header(scope, b"host") or b""
    host = named.split(b",", 1)[0].strip().decode("latin-1")
    if not _HOST.fullmatch(host):
        return error_response(InvalidInput("The Host header must be a host name or an address, with or without a port"))
    query: bytes = scope["query_string"]
    suffix = "?" + query.decode("latin-1") if query else ""
    return Response(
        status_code=301, headers={"Location": f"https://{host.removesuffix(':80')}{raw_path(scope)}{suffix}"}
    )
