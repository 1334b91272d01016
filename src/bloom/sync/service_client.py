"""The routes of the control plane that nodes use (wire contract, section 2.2, and versions and commands beside it).

No redirect is followed, no proxy is used for this machine itself, and no error holds the key.
"""

import json
import ssl
from types import TracebackType
from typing import Any, Self, TypeVar, cast
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from bloom import __version__
from bloom.base.errors import ConfigurationError
from bloom.client.address import check_url, is_loopback
from bloom.client.answers import read_error
from bloom.membridge.schemas import (
    AwaitCommands,
    Command,
    Commands,
    HeartbeatAnswer,
    LeadershipFields,
    NewVersion,
    NodeHeartbeat,
    RegisterAgent,
    ReportJob,
    RestoreVersion,
    VersionFields,
)
from bloom.sync.errors import MembridgeRefused, MembridgeUnreachable

KEY_HEADER = "X-MEMBRIDGE-ADMIN"
_CONNECT_SEC = 5.0
_ANSWER_SEC = 15.0
_MOST_BYTES = 5 * 1024 * 1024
_VERSIONS = TypeAdapter(list[VersionFields])

M = TypeVar("M", bound=BaseModel)


class MembridgeClient:
    """Talks to one control plane. An async context manager. Methods raise MembridgeUnreachable and MembridgeRefused."""

    def __init__(self, url: str, key: str, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`transport` replaces the network. Raises ConfigurationError for an unusable address or key."""
        self.url = check_url(url, "MEMBRIDGE_URL")
        if not key.isascii() or not key.isprintable() or key != key.strip():
            raise ConfigurationError("MEMBRIDGE_ADMIN_KEY must consist of printable ASCII characters")
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url,
                headers={KEY_HEADER: key, "User-Agent": f"bloom/{__version__}", "Accept": "application/json"},
                timeout=httpx.Timeout(_ANSWER_SEC, connect=_CONNECT_SEC),
                follow_redirects=False,
                transport=transport,
                # Loading the certificates takes longer than all the rest of a sync; without TLS none are needed.
                verify=httpx.create_ssl_context()
                if parts.scheme == "https"
                else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                mounts={f"all://{host}": None} if is_loopback(self.url) and transport is None else None,
            )
        except (httpx.InvalidURL, ImportError, ValueError):  # its text may hold a proxy's password
            raise ConfigurationError("MEMBRIDGE_URL or a proxy of the environment cannot be used") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def health(self) -> dict[str, Any]:
        """What the service says of itself; needs no key."""
        answer = await self._ask("GET", "/health")
        if not isinstance(answer, dict):
            raise self._not_membridge()
        return cast("dict[str, Any]", answer)

    async def heartbeat(self, beat: NodeHeartbeat) -> HeartbeatAnswer:
        """Tell that a node is there, and with `asks` ask for the lead or renew it; the answer is its standing."""
        body = beat.model_dump(exclude_none=True)
        return self._read(HeartbeatAnswer, await self._ask("POST", "/agent/heartbeat", body))

    async def leadership(self, cid: str) -> LeadershipFields:
        """Who leads the project."""
        return self._read(LeadershipFields, await self._ask("GET", f"/projects/{cid}/leadership"))

    async def versions(self, cid: str, *, limit: int = 1000) -> list[VersionFields]:
        """The project's versions, newest first; none for a project that the service does not know."""
        try:
            answer = await self._ask("GET", f"/projects/{cid}/versions?limit={limit}")
        except MembridgeRefused as error:
            if error.status == 404:
                return []
            raise
        try:
            return _VERSIONS.validate_python(answer)
        except ValidationError:
            raise self._not_membridge() from None

    async def current_version(self, cid: str) -> VersionFields | None:
        """The version that is current, if there is one."""
        try:
            answer = await self._ask("GET", f"/projects/{cid}/versions/current")
        except MembridgeRefused as error:
            if error.status == 404:
                return None
            raise
        return None if answer is None else self._read(VersionFields, answer)

    async def add_version(self, cid: str, version: NewVersion) -> VersionFields:
        """Make an uploaded version current. Refused with `stale_epoch` or `remote_moved`."""
        return self._read(VersionFields, await self._ask("POST", f"/projects/{cid}/versions", version.model_dump()))

    async def restore_version(self, cid: str, sha256: str, request: RestoreVersion) -> VersionFields:
        """Make an old version current again. Refused with `stale_epoch`."""
        path = f"/projects/{cid}/versions/{sha256}/restore"
        return self._read(VersionFields, await self._ask("POST", path, request.model_dump()))

    async def forget_version(self, cid: str, sha256: str) -> None:
        """Take a version off the list; the service keeps the current one."""
        await self._ask("DELETE", f"/projects/{cid}/versions/{sha256}")

    async def register_agent(self, agent: RegisterAgent) -> None:
        """Register this machine, or say again that it is there."""
        await self._ask("POST", "/agents", agent.model_dump(exclude_unset=True, exclude_none=True))

    async def commands(self, agent: str, wait_sec: float) -> list[Command]:
        """What the agent is to do now; waits up to `wait_sec` seconds for something. Each is handed out once."""
        body = AwaitCommands(wait_sec=wait_sec).model_dump()
        path = f"/agents/{quote(agent, safe='')}/commands"
        return self._read(Commands, await self._ask("POST", path, body, answer_sec=wait_sec + _ANSWER_SEC)).jobs

    async def report(self, agent: str, job_id: str, report: ReportJob) -> None:
        """Say how a job is going, or how it went."""
        path = f"/agents/{quote(agent, safe='')}/jobs/{quote(job_id, safe='')}/report"
        await self._ask("POST", path, report.model_dump(exclude_none=True))

    async def _ask(self, method: str, path: str, body: Any = None, *, answer_sec: float = _ANSWER_SEC) -> Any:
        timeout = httpx.Timeout(answer_sec, connect=_CONNECT_SEC)
        try:
            async with self._http.stream(method, path, json=body, timeout=timeout) as answer:
                content = bytearray()
                async for chunk in answer.aiter_bytes():
                    content += chunk
                    if len(content) > _MOST_BYTES:
                        raise self._not_membridge()
                return self._decode(answer, bytes(content))
        except httpx.TimeoutException:
            raise MembridgeUnreachable(f"Membridge at {self.url} does not answer in time") from None
        except httpx.HTTPError as error:
            kind = type(error).__name__
            raise MembridgeUnreachable(f"Membridge at {self.url} cannot be reached ({kind}); is it running?") from None

    def _decode(self, answer: httpx.Response, content: bytes) -> Any:
        status = answer.status_code
        if 300 <= status < 400:
            raise MembridgeUnreachable(f"{self.url} redirects, which is not followed with a key; set the final address")
        try:
            decoded: Any = json.loads(content) if content else None
        except ValueError:
            if status >= 400:
                decoded = None
            else:
                raise self._not_membridge() from None
        if status < 400:
            return decoded
        form = cast("dict[str, Any]", decoded) if isinstance(decoded, dict) else {}
        code = form.get("code")
        if status == 401:
            raise MembridgeRefused(
                "Membridge refuses the key; check MEMBRIDGE_ADMIN_KEY", status=401, code="unauthorized"
            )
        if status >= 500:
            raise MembridgeUnreachable(f"Membridge at {self.url} answers with an error ({status}); try again later")
        if status in (404, 405) and not str(code).endswith("_not_found"):  # it does not know the route
            raise self._not_membridge()
        told = form.get("error")
        message = f"Membridge refuses ({status})"
        if isinstance(told, str | dict):
            message = read_error(cast("str | dict[str, Any]", told))[0]
        raise MembridgeRefused(message, status=status, code=code if isinstance(code, str) else "refused")

    def _read(self, model: type[M], answer: Any) -> M:
        try:
            return model.model_validate(answer)
        except ValidationError:
            raise self._not_membridge() from None

    def _not_membridge(self) -> MembridgeUnreachable:
        return MembridgeUnreachable(f"what answers at {self.url} is not Membridge of this release; check MEMBRIDGE_URL")
