"""The socket that `bloom serve` listens on."""

import ctypes
import ipaddress
import socket
import struct
import sys
from contextlib import suppress

from bloom.base.errors import ConfigurationError
from bloom.base.settings import ServerSettings

LOOPBACK = "127.0.0.1"
BACKLOG = 2048


def open_given_or_own(settings: ServerSettings, *, fd: int | None, host: str | None, port: int | None) -> socket.socket:
    """The inherited socket `fd`, or a new one on `host` and `port`, which go before those of `settings`.

    Raises ConfigurationError for an address or port that cannot be had, and for one that other machines reach while no key
    is set.
    """
    sock = socket.socket(fileno=fd) if fd is not None else _listen(settings, host, port)
    if settings.api_key is None and not is_loopback(sock):
        sock.close()
        raise ConfigurationError("without RUNTIME_API_KEY the runtime listens on loopback only; set a key")
    return sock


def _listen(settings: ServerSettings, host: str | None, port: int | None) -> socket.socket:
    number = settings.port if port is None else port
    return listen_at(host or settings.host, number, keyless=settings.api_key is None, variable="PORT")


def listen_at(host: str | None, number: int, *, keyless: bool, variable: str) -> socket.socket:
    """A socket that listens on `host` and port `number`; without a host on loopback if `keyless`, else on all addresses.

    Raises ConfigurationError that names `variable`, by which another port is chosen.
    """
    address = host or (LOOPBACK if keyless else "0.0.0.0")  # noqa: S104
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, number))
        # At once: two sockets with SO_REUSEADDR may both bind, only one of them can listen.
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigurationError(
            f"cannot listen on {address} port {number}: {error.strerror or 'bad address'}; choose another one by {variable}"
        ) from None
    return sock


_SO_ATTACH_FILTER = 26
# Of a TCP segment nothing if it has SYN, else all of it: ldb [13]; jset #2, 0, 1; ret #0; ret #-1 (linux/filter.h).
_NO_SYN = b"".join(
    struct.pack("=HBBI", *each) for each in ((0x30, 0, 0, 13), (0x45, 0, 1, 2), (6, 0, 0, 0), (6, 0, 0, 0xFFFFFFFF))
)


def refuse_new(sock: socket.socket) -> None:
    """Let nobody begin to connect to `sock`, which listens, while those who have begun are still accepted.

    A socket that is closed at once resets the connections that nobody has accepted yet, and with them requests that are not
    sent twice. Who is let wait here tries again after a second, and is refused when the socket is closed by then, without
    having sent anything. Only Linux can; elsewhere nothing happens.
    """
    if sys.platform.startswith("linux"):
        program = ctypes.create_string_buffer(_NO_SYN, len(_NO_SYN))
        with suppress(OSError):
            sock.setsockopt(
                socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_NO_SYN) // 8, ctypes.addressof(program))
            )


def is_loopback(sock: socket.socket) -> bool:
    """Whether only this machine reaches `sock`."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    return ipaddress.ip_address(sock.getsockname()[0]).is_loopback
