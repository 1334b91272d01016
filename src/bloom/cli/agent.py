"""What `bloom worker --membridge URL` runs beside the worker: this machine as an agent of Membridge."""

import asyncio
from collections.abc import Awaitable

from bloom.base.settings import load
from bloom.client.address import check_url
from bloom.sync.agent import AgentOptions, serve_agent
from bloom.sync.settings import SyncSettings
from bloom.worker.options import Beside, WorkerOptions


def agent_of(url: str) -> Beside:
    """The agent of the Membridge at `url`, under the worker's name. Raises ConfigurationError."""
    settings, url = load(SyncSettings), check_url(url, "the address of Membridge")
    key = "" if settings.membridge_admin_key is None else settings.membridge_admin_key.get_secret_value()

    def beside(worker: WorkerOptions, stopping: asyncio.Event) -> Awaitable[None]:
        claude_cli = worker.executor == "claude"
        return serve_agent(
            AgentOptions(url, key, worker.name, claude_cli, worker.slots, worker.labels), settings, stopping
        )

    return beside
