"""Use cases of the connection to Membridge: configure, test, ask, promote."""

import asyncio
import json
from typing import Any

from bloom.base.clock import to_ms_or_none
from bloom.base.errors import ConfigurationError, InvalidInput, Upstream
from bloom.base.settings import ServerSettings
from bloom.db.hub import CONNECTION, notify
from bloom.db.pool import Database
from bloom.upstream import store
from bloom.upstream.address import check_key, check_url, origin_of
from bloom.upstream.client import RETRIES, Answer, MembridgeClient
from bloom.upstream.health import LinkHealth
from bloom.upstream.model import UNREADABLE, Environment, KeySource, Saved, Target, mask, resolve
from bloom.upstream.schemas import ConfigOut, ConnectionTest, SaveConfig, SelectPrimary
from bloom.upstream.sealing import Sealer

MAX_HEALTH_CHARACTERS = 64 * 1024


def environment_of(settings: ServerSettings) -> Environment:
    """What the settings say of Membridge. Raises ConfigurationError that names the variable."""
    key = settings.membridge_admin_key
    name = "MEMBRIDGE_SERVER_URL"
    try:
        url = None if settings.membridge_url is None else check_url(settings.membridge_url)
        name = "MEMBRIDGE_ADMIN_KEY"
        return Environment(url, None if key is None else check_key(key.get_secret_value()))
    except ValueError as error:
        raise ConfigurationError(f"{name}: {error}") from None


class ConnectionService:
    """The connection, read from the database for each call: what another replica saved counts at once."""

    def __init__(
        self, database: Database, client: MembridgeClient, sealer: Sealer, environment: Environment, health: LinkHealth
    ) -> None:
        self._database = database
        self._client = client
        self._sealer = sealer
        self._environment = environment
        self._testing: tuple[Target, asyncio.Task[ConnectionTest]] | None = None
        self.health = health

    async def config(self) -> ConfigOut:
        """The connection as it is now, its key masked."""
        async with self._database.transaction() as connection:
            saved = await store.read(connection)
        return self._config(saved, await self._target(saved))

    async def save(self, request: SaveConfig, *, actor: str) -> ConfigOut:
        """Save address, key or both; what is not given is kept.

        Raises InvalidInput: on `admin_key` when the address changes to another origin and no key comes with it, since the
        key of one must not be shown to another. Raises Unavailable when the key cannot be sealed.
        """
        async with self._database.transaction() as connection:
            before = await store.read(connection, lock=True)
            target = await self._target(before)
            url = request.membridge_server_url or target.url
            key = _given_key(request)
            if key == mask(target.admin_key):  # a form that was sent back as it was shown
                key = None
            _check(request, target, url, key)
            sealed = before.admin_key
            if key is not None:
                sealed = await asyncio.to_thread(self._sealer.seal, key, origin_of(url))
            saved = await store.save(connection, url=url, admin_key=sealed, key_changed=key is not None, actor=actor)
            await notify(connection, [CONNECTION])
        return self._config(saved, await self._target(saved))

    async def test(self, *, actor: str) -> ConnectionTest:
        """Ask Membridge how it is, and whether it takes the key: the saved connection, nothing that the caller names.

        Whoever asks meanwhile gets the same outcome, so that no number of callers makes it more than one at a time.
        """
        target = await self.target()
        if self._testing is None or self._testing[0] != target or self._testing[1].done():
            self._testing = (target, asyncio.create_task(self._try(target), name="connection-test"))
        outcome = await asyncio.shield(self._testing[1])
        async with self._database.transaction() as connection:
            await store.tested(connection, connected=outcome.connected, error=outcome.error, actor=actor, now=None)
        return outcome

    async def ask(self, path: str, *, retries: int = RETRIES) -> Answer:
        """Membridge's answer to a GET of `path`. Raises Upstream."""
        return await self._ask(await self.target(), "GET", path, retries=retries)

    async def promote(self, canonical_id: str, request: SelectPrimary, *, actor: str) -> Answer:
        """Make a node the primary of a project. Raises Upstream; then, and on a 5xx, the audit log says that it is unknown
        whether it happened.
        """
        detail = request.model_dump()
        try:
            target = await self.target()
            path = f"/projects/{canonical_id}/leadership/select"
            answer = await self._ask(target, "POST", path, detail)
        except Upstream as error:
            if error.code not in ("membridge_not_configured", "membridge_key_unreadable"):
                await self._promoted(canonical_id, {**detail, "outcome": "unknown"}, actor)
            raise
        if answer.is_success or answer.status >= 500:
            await self._promoted(canonical_id, detail if answer.is_success else {**detail, "outcome": "unknown"}, actor)
        return answer

    async def sync(self, direction: str, project: str, agent: str, *, dryrun: bool, actor: str) -> Answer:
        """Let an agent push or pull the memory of a project. Raises Upstream. That an agent cannot be reached (502 with its own
        code) is no failure of Membridge.
        """
        target = await self.target()
        body = {"project": project, "agent": agent, "dryrun": dryrun}
        answer = await self._ask(target, "POST", f"/sync/{direction}", body)
        if answer.is_success:
            detail = {**body, "direction": direction, "job_id": (answer.fields or {}).get("job_id")}
            async with self._database.transaction() as connection:
                await store.sync_ordered(connection, project, json.dumps(detail), actor=actor)
        return answer

    async def target(self) -> Target:
        """Who is called at this moment."""
        async with self._database.transaction() as connection:
            saved = await store.read(connection)
        self.health.begin(saved)
        return await self._target(saved)

    async def _ask(
        self, target: Target, method: str, path: str, body: dict[str, Any] | None = None, *, retries: int = RETRIES
    ) -> Answer:
        try:
            answer = await self._client.call(target, method, path, body, retries=retries)
        except Upstream as error:
            self.note(target, error)
            raise
        if answer.failure is not None and not answer.of_an_agent:
            self.health.failed(target.revision, answer.failure)
        elif answer.is_success and path != "/health":
            # That one is open: it says nothing of the key, and would hide that the key is refused. Nor does a refusal say that
            # Membridge is what answers.
            self.health.succeeded(target.revision)
        return answer

    def note(self, target: Target, error: Upstream) -> None:
        """A call of `target` failed; that nothing is configured is no failure."""
        if target.configured:
            self.health.failed(target.revision, error.message)

    async def _try(self, target: Target) -> ConnectionTest:
        try:
            said = await self._client.call(target, "GET", "/health", retries=0)
            problem, code = said.failure, said.refusal[0]
            short = len(json.dumps(said.value)) <= MAX_HEALTH_CHARACTERS  # everybody may ask for it
            known = said.fields is not None and "status" in said.fields
            if problem is None and not (said.is_success and known and short):
                problem = f"Membridge answered {said.status} to GET /health, not as Membridge does"
                code = "membridge_not_json"
            if problem is None:
                listed = await self._client.call(target, "GET", "/agents", retries=0)
                problem, code = listed.failure, listed.refusal[0]
        except Upstream as error:
            self.note(target, error)
            return ConnectionTest(connected=False, error=error.message, code=error.code)
        if problem is not None:
            self.health.failed(target.revision, problem)
            return ConnectionTest(connected=False, error=problem, code=code)
        self.health.succeeded(target.revision)
        return ConnectionTest(connected=True, health=said.fields)

    async def _promoted(self, canonical_id: str, detail: dict[str, Any], actor: str) -> None:
        async with self._database.transaction() as connection:
            await store.promoted(connection, canonical_id, json.dumps(detail), actor=actor)

    async def _target(self, saved: Saved) -> Target:
        if saved.admin_key is None:
            return resolve(saved, self._environment, self._sealer.unseal)
        return await asyncio.to_thread(resolve, saved, self._environment, self._sealer.unseal)

    def _config(self, saved: Saved, target: Target) -> ConfigOut:
        self.health.begin(saved)
        return ConfigOut(
            membridge_server_url=target.url,
            admin_key_masked=mask(target.admin_key),
            connected=self.health.connected,
            last_test=to_ms_or_none(saved.tested_at),
            key_source=target.key_source,
            problem=UNREADABLE if target.key_source is KeySource.UNREADABLE else None,
        )


def _given_key(request: SaveConfig) -> str | None:
    one, other = request.admin_key, request.membridge_admin_key
    if one is not None and other is not None and one != other:
        text = "Is the same field as admin_key; give one of them"
        raise InvalidInput(text, fields={"membridge_admin_key": [text]})
    return other if one is None else one


def _check(request: SaveConfig, target: Target, url: str, key: str | None) -> None:
    """Refuse what would keep no key where one is needed."""
    if key is not None:
        return
    if request.membridge_server_url is None:
        raise InvalidInput("Nothing to save", fields={"membridge_server_url": ["Required, or admin_key"]})
    text = None
    if target.key_source is KeySource.UNREADABLE:
        text = UNREADABLE
    elif target.admin_key is not None and origin_of(url) != origin_of(target.url):
        text = "Required: the address names another server, which must not be shown the key of the one before"
    if text is not None:
        raise InvalidInput(text, fields={"admin_key": [text]})
