"""`bloom membridge serve`: one process of the control plane, until it is told to stop."""

import socket

from bloom.base.errors import ConfigurationError
from bloom.base.logging import configure_logging
from bloom.base.settings import load
from bloom.db.migrate import upgrade
from bloom.membridge.settings import MembridgeSettings
from bloom.server.listening import is_loopback, listen_at
from bloom.server.membridge_app import build_membridge_app
from bloom.server.run import check_database_url, run_server


def serve_membridge(*, host: str | None, port: int | None, fd: int | None, lifeline_fd: int | None) -> None:
    """Serve until SIGTERM or SIGINT; the parameters are those of `bloom.server.run.serve`.

    Raises ConfigurationError for bad settings, a missing key or a port that cannot be had.
    """
    settings = load(MembridgeSettings)
    configure_logging(settings)
    settings.require_key()
    check_database_url(settings)
    keyless = settings.membridge_admin_key is None
    if fd is not None:
        sock = socket.socket(fileno=fd)
    else:
        number = settings.listen_port if port is None else port
        sock = listen_at(host or settings.membridge_host, number, keyless=keyless, variable="MEMBRIDGE_PORT")
    if keyless and not is_loopback(sock):
        raise ConfigurationError("without MEMBRIDGE_ADMIN_KEY Membridge listens on loopback only; set a key")
    app, stopping = build_membridge_app(settings)
    if settings.database_url is not None:
        upgrade(settings.database_url.get_secret_value())
    run_server(app, stopping, sock, lifeline_fd, settings, keeps_socket=fd is not None)
