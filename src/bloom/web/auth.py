"""Who calls: a key in `X-Runtime-API-Key`, looked up in a key ring.

Identifying and refusing are two steps, with the rate limit between them: a known caller has the budgets of workers, and
wrong keys use up the budget of the address they come from. Who tries one wrong key after the other has to wait, too
(`bloom.web.sign_in`).
"""

import asyncio
import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from bloom.base.errors import BloomError, Throttled, Unauthorized
from bloom.base.ids import WorkerId
from bloom.base.roles import Role
from bloom.web.asgi import header, route_path
from bloom.web.errors import error_response
from bloom.web.proxies import client_of
from bloom.web.sign_in import SignInAttempts

KEY_HEADER = b"x-runtime-api-key"

_REFUSAL = "sign_in_refusal"
_HEALTH = ("GET", "/api/runtime/health")
_OPEN = frozenset({_HEALTH, ("POST", "/api/runtime/test-connection")})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, by the name that the audit log shows. A worker's key speaks for `worker_id` alone.

    `withdrawn` is set when the key stops being valid while requests of it are under way. By `subject` a session finds its
    holder again; it is no secret.
    """

    name: str
    role: Role
    worker_id: WorkerId | None = None
    withdrawn: asyncio.Event | None = field(default=None, compare=False, repr=False)
    subject: str = field(default="", compare=False)


ADMIN = Principal("admin", Role.ADMIN, subject="admin")
LOCAL = Principal("local", Role.ADMIN)


class KeyRing(Protocol):
    """Knows whose key is whose."""

    async def find(self, presented: bytes) -> Principal | None:
        """Who holds the key `presented`, or None. Takes as long for a key that is almost right as for any other."""
        ...

    async def find_subject(self, subject: str) -> Principal | None:
        """Who has this `Principal.subject`, if its key is still valid."""
        ...


class AdminKey:
    """The key ring of the admin: `RUNTIME_API_KEY`, and while that is rotated the one before it."""

    def __init__(self, *keys: str) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    async def find(self, presented: bytes) -> Principal | None:
        """The admin, if `presented` is one of the keys."""
        digest = _digest(presented)
        return ADMIN if sum(hmac.compare_digest(digest, own) for own in self._digests) else None

    async def find_subject(self, subject: str) -> Principal | None:
        """The admin, if it is the one asked for."""
        return ADMIN if subject == ADMIN.subject else None


class KeyRings:
    """Several key rings as one: the first that knows the key answers."""

    def __init__(self, *rings: KeyRing) -> None:
        self._rings = rings

    async def find(self, presented: bytes) -> Principal | None:
        """Who holds the key, by the first ring that knows it. Raises what that ring raises."""
        for ring in self._rings:
            if (principal := await ring.find(presented)) is not None:
                return principal
        return None

    async def find_subject(self, subject: str) -> Principal | None:
        """Who has this subject, by the first ring that knows it. Raises what that ring raises."""
        for ring in self._rings:
            if (principal := await ring.find_subject(subject)) is not None:
                return principal
        return None


def _digest(key: bytes) -> bytes:
    # Equal lengths, so that the comparison does not tell the key's length either.
    return hashlib.sha256(key).digest()


def is_guarded(method: str, path: str) -> bool:
    """Whether a request needs a key: all of `/api`, except the two open paths of the wire contract."""
    return (path.startswith("/api/") or path == "/api") and (method, path) not in _OPEN


class IdentifyMiddleware:
    """Puts the principal of the presented key into the request's state, if the ring knows it. Refuses nobody, but notes why
    a key was not even looked at.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, attempts: SignInAttempts) -> None:
        self.app = app
        self._keys = keys
        self._attempts = attempts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and (presented := header(scope, KEY_HEADER)) is not None
            and (scope["method"], route_path(scope)) != _HEALTH  # it answers while the database is away, too
        ):
            try:
                principal = await self._attempts.find(client_of(scope), presented, self._keys.find)
            except Throttled as refusal:
                scope.setdefault("state", {})[_REFUSAL] = refusal
            else:
                if principal is not None:
                    remember_principal(scope, principal)
        await self.app(scope, receive, send)


class RequireKeyMiddleware:
    """Answers 401 (429 to one that has to wait) on guarded paths to a caller that was not identified; there are no
    WebSockets, they are refused.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if principal_of(scope) is None and is_guarded(scope["method"], route_path(scope)):
                refusal: BloomError = scope.get("state", {}).get(_REFUSAL) or unauthorized()
                await error_response(refusal)(scope, receive, send)
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        await self.app(scope, receive, send)


def remember_principal(scope: Scope, principal: Principal) -> None:
    """Let the rest of the request know that `principal` calls."""
    scope.setdefault("state", {})["principal"] = principal


def forget_principal(scope: Scope) -> None:
    """Let the rest of the request take the caller for a stranger."""
    scope.get("state", {}).pop("principal", None)


def principal_of(scope: Scope) -> Principal | None:
    """Who calls, or None for a caller without a key."""
    found = scope.get("state", {}).get("principal")
    return found if isinstance(found, Principal) else None


async def until_withdrawn(scope: Scope) -> None:
    """Return when the key of the caller is valid no longer; never for one that cannot be withdrawn."""
    principal = principal_of(scope)
    withdrawn = None if principal is None else principal.withdrawn
    await (asyncio.Event() if withdrawn is None else withdrawn).wait()


def current_principal(request: Request) -> Principal:
    """Who calls; for routes (`Depends(current_principal)`). Raises Unauthorized for a caller without a key."""
    principal = principal_of(request.scope)
    if principal is None:
        raise unauthorized()
    return principal


def presented_key(request: Request) -> str:
    """The key as the caller shows it, valid or not; empty for none. For the one route that exchanges it."""
    return (header(request.scope, KEY_HEADER) or b"").decode("latin-1")


def unauthorized() -> Unauthorized:
    """What a caller without a valid key is told."""
    return Unauthorized("A valid key is needed in the header X-Runtime-API-Key")
