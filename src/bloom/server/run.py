"""One process of `bloom serve`: one listening socket, until it is told to stop."""

import asyncio
import gc
import logging
import socket
import time

import uvicorn
from fastapi import FastAPI

from bloom.base.lifeline import lifeline
from bloom.base.logging import configure_logging
from bloom.base.settings import ServerSettings, load
from bloom.db.installation import claim_secret
from bloom.db.migrate import upgrade
from bloom.db.pool import check_url
from bloom.server.app import build_app, sealer_of
from bloom.server.connections import ConnectionLimits, guarded_protocol
from bloom.server.listening import BACKLOG, open_given_or_own, refuse_new
from bloom.web.disconnect import Stopping

STOP_GRACE_SEC = 3
KEEP_ALIVE_SEC = 75
"""Longer than the keep-alive of the usual proxies, so that they are the ones to close."""

LAST_SEC = 0.2
"""From the moment at which nobody can connect any more to the end: whoever connected just before is answered."""

_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Ends long polls and streams before it waits for connections, and when its parent is gone.

    With `drain_sec` it goes on serving so long after it was told to stop, one request on each connection, so that whoever
    stands before it has gone elsewhere before nobody listens. `keeps_socket`: its listening socket is that of others, too.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        stopping: Stopping,
        lifeline_fd: int | None,
        drain_sec: float,
        *,
        keeps_socket: bool,
    ) -> None:
        super().__init__(config)
        self._stopping = stopping
        self._lifeline_fd = lifeline_fd
        self._drain_sec = drain_sec
        self._keeps_socket = keeps_socket
        self._watch: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._lifeline_fd is not None:
            self._watch = asyncio.create_task(self._stop_with_parent(self._lifeline_fd))
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stopping.begin()
        if self._drain_sec:
            _log.info("stopping; serving on meanwhile", extra={"seconds": self._drain_sec})
            await self._wait(self._drain_sec)
            if not self._keeps_socket:
                for listening in sockets or ():
                    refuse_new(listening)
            await self._wait(LAST_SEC)
        await super().shutdown(sockets)

    async def _wait(self, seconds: float) -> None:
        """Less when a second Ctrl-C says so."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.force_exit:  # noqa: ASYNC110 (the signal tells nobody)
            await asyncio.sleep(0.05)

    async def _stop_with_parent(self, fd: int) -> None:
        await lifeline(fd)
        _log.warning("the parent process is gone, stopping")
        self.should_exit = True


def serve(*, host: str | None, port: int | None, fd: int | None, lifeline_fd: int | None, reload: bool) -> None:
    """Serve until SIGTERM or SIGINT. Settings come from the environment; `host` and `port` go before them. `fd` is a socket
    that listens already. `lifeline_fd`: stop when it reads end of file. `reload` restarts on changes of the code.

    Raises ConfigurationError for bad settings or a port that cannot be had.
    """
    settings = load(ServerSettings)
    configure_logging(settings)
    check_database_url(settings)
    if reload:
        from bloom.server.reloading import serve_reloading

        serve_reloading(open_given_or_own(settings, fd=fd, host=host, port=port).detach(), lifeline_fd)
        return
    sock = open_given_or_own(settings, fd=fd, host=host, port=port)
    app, stopping = build_app(settings)
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        if applied := upgrade(url):
            _log.info("database schema upgraded", extra={"revisions": ",".join(applied)})
        claim_secret(url, sealer_of(settings).derive("mark"))
    run_server(app, stopping, sock, lifeline_fd, settings, keeps_socket=fd is not None)


def run_server(
    app: FastAPI,
    stopping: Stopping,
    sock: socket.socket,
    lifeline_fd: int | None,
    settings: ServerSettings,
    *,
    keeps_socket: bool,
) -> None:
    """Serve `app` on `sock`, which listens, until SIGTERM, SIGINT or the end of `lifeline_fd`, and `BLOOM_DRAIN_SEC` longer.
    `keeps_socket`: `sock` is that of another process, which may listen on.
    """
    config = uvicorn.Config(
        app,
        http=guarded_protocol(ConnectionLimits(settings)),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_GRACE_SEC,
        timeout_keep_alive=KEEP_ALIVE_SEC,
        backlog=BACKLOG,
    )
    _collect_seldom()
    _log.info("listening", extra={"address": "{}:{}".format(*sock.getsockname()[:2])})
    _Server(config, stopping, lifeline_fd, settings.drain_sec, keeps_socket=keeps_socket).run(sockets=[sock])


def _collect_seldom() -> None:
    """Let the collector of cycles look at what is new only every 10,000 objects, and at all that lives every million.

    With its defaults it walks over all connections again and again: a quarter of the time of a process that holds 5,000 of
    them (`make bench BENCH_ARGS=scale`), in pauses of a tenth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def check_database_url(settings: ServerSettings) -> None:
    """Raise ConfigurationError that names the variable whose value cannot be the address of a PostgreSQL."""
    for name, url in (("DATABASE_URL", settings.database_url), ("BLOOM_LISTEN_URL", settings.listen_url)):
        if url is not None:
            check_url(name, url.get_secret_value())
