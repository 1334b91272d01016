"""The runtime that the commands of this machine speak with, as `bloom doctor` sees it."""

import time
from email.utils import parsedate_to_datetime

from bloom import __version__
from bloom.base.findings import Finding
from bloom.base.settings import ClientSettings
from bloom.client import RuntimeClient, RuntimeRefused, RuntimeUnreachable, find_runtime

_SKEW_SEC = 30.0


async def reachable_runtime(settings: ClientSettings, named: str | None) -> list[Finding]:
    """Whether it answers, is of this release, and takes the key. Raises BloomError."""
    address = find_runtime(settings, named)
    key = None if settings.api_key is None else settings.api_key.get_secret_value()
    found: list[Finding] = []
    async with RuntimeClient(address.url, key, timeout_sec=10) as client:
        try:
            health, headers = await client.request_with_headers("GET", "/health")
        except RuntimeUnreachable as error:
            # Nobody said that there is one: this may be the machine that is about to run it.
            expected = address.source not in ("the default", "PORT")
            text = f"{error.message} (address from {address.source})"
            return [Finding("runtime", "problem" if expected else "warning", text, "start it, or set BLOOM_URL")]
        except RuntimeRefused as error:
            if error.status != 503:
                raise
            return [Finding("runtime", "problem", f"{client.url} has no database", "start PostgreSQL; see its log")]
        version = str(health.get("version", "unknown"))
        text = f"{client.url} answers, bloom {version}"
        if version != __version__:
            found.append(Finding("runtime", "warning", f"{text}; here is {__version__}", "install the same release"))
        else:
            found.append(Finding("runtime", "ok", text))
        if (said := headers.get("date")) is not None:
            ahead = parsedate_to_datetime(said).timestamp() - time.time()
            if abs(ahead) > _SKEW_SEC:
                text = f"the runtime's clock is {abs(ahead):.0f} s {'ahead' if ahead > 0 else 'behind'}"
                found.append(Finding("runtime's clock", "warning", text, "let both machines use NTP"))
        return [*found, await _key(client, key)]


async def _key(client: RuntimeClient, key: str | None) -> Finding:
    try:
        await client.request("GET", "/stats")
    except RuntimeRefused as error:
        if error.status == 403:
            return Finding("key", "ok", "the key is a worker's or for joining")
        if error.status != 401:
            return Finding("key", "warning", error.message, "try again later")
        text = "the runtime wants a key, and none is set" if key is None else "the runtime refuses the key"
        return Finding("key", "problem", text, "set BLOOM_API_KEY to a valid one (bloom key list)")
    return Finding("key", "ok", "the runtime asks for none" if key is None else "the runtime takes the key")
