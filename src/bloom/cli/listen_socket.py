"""The sockets that the runtime and Membridge listen on: bound before they start, and kept while they are started again."""

import errno
import ipaddress
import socket
import sys

from bloom.base.errors import ConfigurationError, Unavailable
from bloom.base.settings import ServerSettings

LOOPBACK = "127.0.0.1"

_BACKLOG = 1024
_PORTS_TRIED = 100


def open_listen_socket(settings: ServerSettings) -> socket.socket:
    """A listening socket on the host and port of `settings`; if no port was asked for, the first free one from 5000 up.

    Raises ConfigurationError for a host that needs a key or does not exist here, Unavailable (`port_in_use`) when the
    port asked for, or every one tried, is taken.
    """
    host = settings.host or LOOPBACK
    if not settings.auth_required and not settings.allow_no_auth and not _is_loopback(host):
        raise ConfigurationError(
            "BLOOM_HOST names an address that other machines reach, and RUNTIME_API_KEY is not set: without a key "
            "BLOOM listens on 127.0.0.1 only. Set a key, or leave BLOOM_HOST out"
        )
    name = "BLOOM_RUNTIME_PORT" if settings.runtime_port is not None else "PORT"
    return listen_from(host, settings.port, asked_for=settings.port_was_asked_for, name=name)


def listen_from(host: str, first: int, *, asked_for: bool, name: str, host_name: str = "BLOOM_HOST") -> socket.socket:
    """A socket that listens on `host` and the port `first`; if that was not `asked_for`, on the first free one from there.

    `name` is the variable of the port, `host_name` that of the host. Raises ConfigurationError and Unavailable as above.
    """
    last = first if asked_for else first + _PORTS_TRIED - 1
    for port in range(first, last + 1):
        try:
            return _listen(host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            if error.errno == errno.EACCES:
                raise Unavailable(
                    f"port {port} may only be used by root: set {name} to one above 1023", code="port_forbidden"
                ) from None
            raise ConfigurationError(f"{host_name} is not an address of this machine ({error.strerror})") from None
    if asked_for:
        raise Unavailable(
            f"port {first} is in use by another program: stop that one, or set {name} to a free port",
            code="port_in_use",
        )
    raise Unavailable(f"all ports from {first} to {last} are in use: set {name} to a free one", code="port_in_use")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def share_listen_socket(listening: socket.socket) -> socket.socket:
    """One more socket with the address of `listening`; the kernel deals connections out among those that listen (socket(7),
    SO_REUSEPORT). It does not listen yet: whoever serves by it does that when it is ready. Where the kernel does not deal out
    (not Linux), another descriptor of the same socket: whoever is free accepts.

    The option is set on `listening` only now, after its bind, so that the port was refused to it if any other program had it.
    """
    if not sys.platform.startswith("linux"):
        return listening.dup()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    another = socket.socket(listening.family, listening.type, listening.proto)
    try:
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if another.family == socket.AF_INET6:
            v6only = listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            another.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        another.bind(listening.getsockname())
    except BaseException:
        another.close()
        raise
    return another


def url_of(listening: socket.socket) -> str:
    """The URL by which this machine reaches `listening`."""
    name: tuple[str, int] = listening.getsockname()[:2]
    host, port = name
    if ipaddress.ip_address(host).is_unspecified:
        host = "::1" if listening.family == socket.AF_INET6 else LOOPBACK
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        # Takes over from connections that linger in TIME_WAIT, never from a program that listens.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # At once: two sockets with SO_REUSEADDR may both bind, only one of them can listen.
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening
