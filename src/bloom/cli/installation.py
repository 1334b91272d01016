"""What `bloom doctor` looks at: the machine, and of BLOOM whatever is here."""

from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec

from bloom.base.errors import BloomError, ConfigurationError
from bloom.base.findings import Finding
from bloom.base.settings import ClientSettings, ServerSettings, load
from bloom.cli.config_catalog import misspelt, read_settings
from bloom.cli.installed_here import data_files, disk, env_files, services, time_and_zone, version
from bloom.cli.installed_runtime import reachable_runtime
from bloom.cli.installed_worker import worker

Look = Callable[[], Awaitable[list[Finding]]]


async def examine(runtime: str | None) -> list[Finding]:
    """Look at everything, and tell all that was found. `runtime`: as for other commands."""
    found = [*version(), *_settings(), *env_files()]
    try:
        settings, client = load(ServerSettings), load(ClientSettings)
    except ConfigurationError:
        return found  # it was told above; what depends on the settings would be guesswork
    found += [*data_files(settings), *disk(settings.data_dir), *await time_and_zone()]
    serves_here = find_spec("psycopg") is not None and find_spec("fastapi") is not None
    if serves_here:
        # Only now: a machine that is a worker alone has no server parts.
        from bloom.cli import installed_server

        found += installed_server.settings_fit(settings)
        if found[-1].verdict != "problem":
            found += installed_server.port(settings)
            found += await _guarded("database", "check DATABASE_URL", lambda: installed_server.database(settings))
            found += await _guarded(
                "object store", "check the MINIO_ variables", lambda: installed_server.object_store(settings)
            )
            found += await _guarded(
                "Membridge",
                "check MEMBRIDGE_SERVER_URL and MEMBRIDGE_ADMIN_KEY",
                lambda: installed_server.membridge(settings),
            )
    else:
        found.append(Finding("server", "ok", "not installed here: this is a client or a worker"))
    found += await _guarded("runtime", "check BLOOM_URL", lambda: reachable_runtime(client, runtime))
    found += await _guarded("worker", "check worker.toml", worker)
    return [*found, *services()]


async def _guarded(name: str, fix: str, look: Look) -> list[Finding]:
    try:
        return await look()
    except BloomError as error:
        return [Finding(name, "problem", error.message, fix)]
    except OSError as error:
        return [Finding(name, "problem", error.strerror or type(error).__name__, fix)]


def _settings() -> Iterator[Finding]:
    wrong = [each for each in read_settings(None) if each.problem is not None]
    for each in wrong:
        yield Finding(
            "settings", "problem", f"{each.source}: {each.problem}", "correct it; bloom config show shows all"
        )
    for name, meant in misspelt().items():
        fix = "take it away" if meant is None else f"say {meant} if that is meant"
        yield Finding("settings", "warning", f"nothing reads the variable {name}", fix)
    if not wrong:
        yield Finding("settings", "ok", "each can be read")
