"""The HTTP client of the runtime, for the CLI, the worker daemon and scripts. Needs httpx and `bloom.base`, no more."""

from bloom.client.address import ENDPOINT_FILE, RuntimeAddress, check_url, find_runtime, is_loopback, path_segment
from bloom.client.errors import RuntimeRefused, RuntimeUnreachable
from bloom.client.runtime import API_PREFIX, RuntimeClient
from bloom.client.sse import SseMessage

__all__ = [
    "API_PREFIX",
    "ENDPOINT_FILE",
    "RuntimeAddress",
    "RuntimeClient",
    "RuntimeRefused",
    "RuntimeUnreachable",
    "SseMessage",
    "check_url",
    "find_runtime",
    "is_loopback",
    "path_segment",
]
