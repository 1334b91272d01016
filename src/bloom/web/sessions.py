"""Who uses the pages: a session in a signed cookie, opened by showing a key. No process keeps any; every replica knows all.

A session names the holder of a key, never the key. It ends after `SESSION_SEC` without use, with the key, and when the secret
of the installation or the admin's key is another one. It counts for pages alone: the API takes keys, so that no page
of another site can use a browser's cookie there.
"""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from itsdangerous import BadData, TimestampSigner
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloom.web.asgi import header_values, route_path
from bloom.web.auth import KeyRing, principal_of, remember_principal

SESSION_COOKIE = "bloom_session"
SESSION_SEC = 12 * 3600
_RENEWED_AFTER_SEC = SESSION_SEC // 4
_LONGEST = 512


@dataclass(frozen=True, slots=True)
class Session:
    """An open session: whose (`Principal.subject`), and a random id."""

    subject: str
    id: str
    age_sec: int


class Sessions:
    """Opens sessions, reads their cookies, and makes the tokens that forms of a session carry."""

    def __init__(self, secret: bytes, admin_key: str | None) -> None:
        key = hmac.digest(secret, b"bloom: sessions\0" + (admin_key or "").encode(), "sha256")
        self._signer = TimestampSigner(key, salt="bloom.session", digest_method=hashlib.sha256)
        self._form_key = hmac.digest(key, b"forms", "sha256")

    def open(self, subject: str, session_id: str | None = None) -> str:
        """The value of the cookie of a session of `subject`, a new one unless `session_id` names one."""
        return self._signer.sign(f"{session_id or secrets.token_urlsafe(16)}/{subject}").decode()

    def read(self, cookie: str) -> Session | None:
        """The session of a cookie; None for one that is over, or not of ours."""
        if len(cookie) > _LONGEST:
            return None
        try:
            value, signed_at = self._signer.unsign(cookie, max_age=SESSION_SEC, return_timestamp=True)
            session_id, _, subject = value.decode().partition("/")
        except (BadData, UnicodeDecodeError):
            return None
        return Session(subject, session_id, int(time.time() - signed_at.timestamp()))

    def form_token(self, session_id: str) -> str:
        """What a form of this session carries, and no other site can know. "" is the session of who has none."""
        return hmac.new(self._form_key, session_id.encode(), "sha256").hexdigest()

    def is_form_token(self, session_id: str, token: str) -> bool:
        """Whether `token` is that of this session."""
        return hmac.compare_digest(self.form_token(session_id).encode(), token.encode())


class SessionMiddleware:
    """Takes the holder of a session for the caller, outside of `/api/`, and prolongs the session of who is active."""

    def __init__(self, app: ASGIApp, *, sessions: Sessions, keys: KeyRing, path: str) -> None:
        self.app = app
        self._sessions = sessions
        self._keys = keys
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = None
        if scope["type"] == "http" and principal_of(scope) is None and not route_path(scope).startswith("/api/"):
            session = self._sessions.read(read_cookie(scope, SESSION_COOKIE))
        principal = None if session is None else await self._keys.find_subject(session.subject)
        if session is None or principal is None:
            await self.app(scope, receive, send)
            return
        remember_principal(scope, principal)
        scope["state"]["session"] = session.id
        if session.age_sec < _RENEWED_AFTER_SEC:
            await self.app(scope, receive, send)
            return
        renewed = session_cookie(scope, self._sessions.open(session.subject, session.id), path=self._path)

        async def prolonging_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in message.get("headers", ())}
                if b"set-cookie" not in names:  # signing out sets it, too
                    message["headers"] = [*message.get("headers", ()), (b"set-cookie", renewed.encode())]
            await send(message)

        await self.app(scope, receive, prolonging_send)


def session_id_of(scope: Scope) -> str:
    """The id of the caller's session; "" for a caller without one."""
    return scope.get("state", {}).get("session", "")


def session_cookie(scope: Scope, value: str, *, path: str) -> str:
    """A `Set-Cookie` that opens a session, or with an empty `value` ends it."""
    return cookie(scope, SESSION_COOKIE, value, path=path, max_age_sec=SESSION_SEC if value else 0, http_only=True)


def cookie(scope: Scope, name: str, value: str, *, path: str, max_age_sec: int, http_only: bool) -> str:
    """A `Set-Cookie` of this site alone (SameSite=Lax); Secure where the request came over TLS."""
    parts = [f"{name}={value}", f"Path={path or '/'}", f"Max-Age={max_age_sec}", "SameSite=Lax"]
    parts += ["HttpOnly"] * http_only + ["Secure"] * (scope.get("scheme") == "https")
    return "; ".join(parts)


def read_cookie(scope: Scope, name: str) -> str:
    """The value of a cookie of the request, "" for none."""
    for line in header_values(scope, b"cookie"):
        if (found := cookie_parser(line.decode("latin-1")).get(name)) is not None:
            return found
    return ""
