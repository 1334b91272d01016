"""The runtime that is set up on this machine, as `bloom doctor` sees it. Needs the server parts."""

import asyncio
import errno
import socket

import httpx
from pydantic import SecretStr

from bloom.base.errors import ConfigurationError
from bloom.base.findings import Finding
from bloom.base.settings import ServerSettings
from bloom.blobs.open import open_blob_store
from bloom.db.condition import DatabaseCondition, condition_of
from bloom.db.migrate import HEAD
from bloom.server.app import build_app
from bloom.sync.service_client import MembridgeClient

_OLDEST_POSTGRES = 140_000
_SKEW_SEC = 2.0
_SHORT_KEY = 16
_ASK_SEC = 3.0
_NO_PROJECT = "0" * 16


def settings_fit(settings: ServerSettings) -> list[Finding]:
    """Whether a runtime would start with these settings, and what is weak in them."""
    # What a runtime would have by then; with a secret given, none is made on the disk.
    given = {
        "database_url": settings.database_url or SecretStr("postgresql://localhost/bloom"),
        "secret_key": settings.secret_key or SecretStr("the doctor's own, which seals nothing"),
    }
    try:
        build_app(settings.model_copy(update=given))
    except ConfigurationError as error:
        return [Finding("runtime settings", "problem", error.message, "correct the setting that it names")]
    found: list[Finding] = []
    if settings.api_key is None:
        text = "RUNTIME_API_KEY is not set: development mode, for this machine alone"
        found.append(
            Finding(
                "RUNTIME_API_KEY", "warning", text, "set it before other machines are to come (openssl rand -hex 32)"
            )
        )
    elif min(len(key) for key in settings.admin_keys) < _SHORT_KEY:
        text = f"has fewer than {_SHORT_KEY} characters and can be guessed"
        found.append(Finding("RUNTIME_API_KEY", "warning", text, "openssl rand -hex 32"))
    if settings.previous_api_key is not None:
        fix = "take it away once all callers show the new key"
        found.append(Finding("RUNTIME_API_KEY_PREVIOUS", "warning", "the key before is still taken", fix))
    return [*found, Finding("runtime settings", "ok", "a runtime starts with them")]


def port(settings: ServerSettings) -> list[Finding]:
    """Whether the runtime's port is free, or the runtime has it."""
    host = settings.host or "127.0.0.1"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, settings.port))
            return [Finding("port", "ok", f"{settings.port} is free: no runtime listens here")]
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                text = f"cannot listen on {host} port {settings.port}: {error.strerror}"
                return [
                    Finding("port", "problem", text, "set BLOOM_HOST and BLOOM_RUNTIME_PORT to what this user may have")
                ]
    if _is_ours(host, settings.port):
        return [Finding("port", "ok", f"{settings.port} is the runtime's")]
    fix = "stop that program, or set BLOOM_RUNTIME_PORT to another port"
    return [Finding("port", "problem", f"{settings.port} is in use by another program", fix)]


def _is_ours(host: str, number: int) -> bool:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    url = f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}"
    try:
        answer = httpx.get(f"{url}/api/runtime/health", timeout=_ASK_SEC, trust_env=False)
        return answer.json().get("service") == "bloom-runtime"
    except (httpx.HTTPError, ValueError, AttributeError):
        return False


async def database(settings: ServerSettings) -> list[Finding]:
    """Whether the database will do. Raises Unavailable when it does not answer."""
    if settings.database_url is None:
        where = "the data directory has one" if (settings.data_dir / "postgres").exists() else "none yet"
        return [Finding("database", "ok", f"DATABASE_URL is not set: bloom up brings its own ({where})")]
    condition = await asyncio.to_thread(condition_of, settings.database_url.get_secret_value())
    problems = list(judge_database(condition, settings))
    text = f"PostgreSQL {condition.version}, schema {condition.revision or 'not made yet'}"
    return [Finding("database", "ok", text), *problems]


def judge_database(condition: DatabaseCondition, settings: ServerSettings) -> list[Finding]:
    """What is wrong with a database that answers."""
    found: list[Finding] = []

    def tell(wrong: bool, verdict: str, text: str, fix: str) -> None:
        if wrong:
            found.append(Finding("database", "problem" if verdict == "problem" else "warning", text, fix))

    tell(condition.version_number < _OLDEST_POSTGRES, "problem", "is older than PostgreSQL 14", "upgrade it")
    tell(
        condition.encoding != "UTF8",
        "problem",
        f"its encoding is {condition.encoding}",
        "createdb --encoding UTF8 --template template0",
    )
    tell(condition.read_only, "problem", "it takes no writes", "let DATABASE_URL name the primary")
    tell(
        not condition.may_create,
        "problem",
        "this user may not make tables there",
        "grant create on database … to …, or upgrade as its owner",
    )
    unsafe = [name for name in ("fsync", "full_page_writes", "synchronous_commit") if not getattr(condition, name)]
    for name in unsafe:
        tell(
            True,
            "problem",
            f"{name} is off: a power cut loses tasks that were acknowledged",
            f"alter system set {name} = on",
        )
    if condition.revision is None or condition.revision < HEAD:
        tell(
            True, "warning", f"its schema is older than this release ({HEAD})", "bloom db upgrade, or start the runtime"
        )
    tell(
        condition.revision is not None and condition.revision > HEAD,
        "problem",
        f"its schema is of a newer release ({condition.revision}; this one knows up to {HEAD})",
        "install that release",
    )
    needed = settings.processes * (settings.pool_size + 1)
    tell(
        needed > condition.max_connections * 0.8,
        "warning",
        f"{needed} connections are needed here, and it has {condition.max_connections} for all",
        "lower BLOOM_DB_POOL_SIZE or BLOOM_PROCESSES, or raise max_connections",
    )
    ahead = condition.clock_ahead_sec
    side = "ahead of" if ahead > 0 else "behind"
    tell(
        abs(ahead) > _SKEW_SEC, "warning", f"its clock is {abs(ahead):.0f} s {side} this machine's", "let both use NTP"
    )
    return found


async def object_store(settings: ServerSettings) -> list[Finding]:
    """Whether artifacts can be stored where they are to go. Raises ConfigurationError and BlobUnavailable."""
    store = open_blob_store(settings)
    if store is None:
        return [Finding("object store", "ok", "none is set: PostgreSQL keeps the artifacts")]
    await store.check()
    return [
        Finding(
            "object store",
            "ok",
            f"{settings.minio_artifact_bucket if settings.minio_endpoint else settings.blob_dir} can be written to",
        )
    ]


async def membridge(settings: ServerSettings) -> list[Finding]:
    """Whether the Membridge of the environment answers and takes the key. What was saved in the runtime is not looked at here.

    Raises ConfigurationError, MembridgeUnreachable and MembridgeRefused.
    """
    if settings.membridge_url is None or settings.membridge_admin_key is None:
        return [Finding("Membridge", "ok", "the environment names none")]
    async with MembridgeClient(settings.membridge_url, settings.membridge_admin_key.get_secret_value()) as client:
        health = await client.health()
        await client.versions(_NO_PROJECT, limit=1)
    return [Finding("Membridge", "ok", f"{client.url} answers, version {health.get('version')}, and takes the key")]
