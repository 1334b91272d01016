"""Puts the middleware around an app, in the one right order."""

from collections.abc import Mapping, Sequence

from fastapi import APIRouter, FastAPI

from bloom.base.settings import ServerSettings
from bloom.web.auth import AdminKey, IdentifyMiddleware, KeyRing, RequireKeyMiddleware
from bloom.web.base_path import BasePathMiddleware, parse_base_path
from bloom.web.body_limit import BodyLimitMiddleware, ExemptBody, no_exempt_body
from bloom.web.cors import CorsMiddleware, parse_origins
from bloom.web.development import DevelopmentGuardMiddleware
from bloom.web.direct import DirectMiddleware
from bloom.web.disconnect import Stopping
from bloom.web.errors import UnexpectedErrorsMiddleware, install_error_handlers
from bloom.web.protocol import ProtocolMiddleware
from bloom.web.proxies import ProxyHeadersMiddleware, parse_trusted_proxies
from bloom.web.rate_limit import RateLimitMiddleware, parse_rate_limit
from bloom.web.request_context import ObserveRequest, RequestContextMiddleware
from bloom.web.roles import NO_RULES, RequireHeld, RoleMiddleware, Rule, none_is_held
from bloom.web.security_headers import SecurityHeadersMiddleware
from bloom.web.sessions import SessionMiddleware, Sessions
from bloom.web.sign_in import SignInAttempts


def install_web(
    app: FastAPI,
    settings: ServerSettings,
    *,
    keys: KeyRing | None = None,
    attempts: SignInAttempts | None = None,
    rules: Mapping[tuple[str, str], Rule] = NO_RULES,
    require_held: RequireHeld = none_is_held,
    exempt_body: ExemptBody = no_exempt_body,
    direct: tuple[str, Sequence[APIRouter]] = ("", ()),
    sessions: Sessions | None = None,
    observe: ObserveRequest | None = None,
) -> Stopping:
    """Add error handlers and middleware to `app`, before it serves anything.

    Returns the `Stopping` on which whoever runs the server calls `begin()` when it stops, before it waits for
    connections. `keys` takes the place of the ring that holds `RUNTIME_API_KEY` alone, `attempts` counts those with
    wrong keys (shared with whoever else asks for keys); `rules` and `require_held`
    are those of `RoleMiddleware`. `direct`: a prefix and the routers below it, whose direct routes are served without the
    framework. With `sessions` pages take the cookies of these. `observe` is told of each request. Raises ConfigurationError
    that names the variable for a bad `BLOOM_RATE_LIMIT`, `BLOOM_TRUSTED_PROXIES`, `BLOOM_BASE_PATH` or
    `BLOOM_CORS_ORIGINS`.

    The order, from the outside, and why:
    0. base path: everything below sees the path without it;
    1. request context: an id and a log line for each request, refused ones too;
    2. security headers: on each answer, whoever wrote it;
    3. pages of other origins: they may read each answer, errors and refusals too, and ask beforehand without a key;
    4. unexpected errors: also those of the middleware below;
    5. proxies: everything below sees the real client; the redirect to https comes before any key is looked at;
    6. identify by key, then by session, or in development mode the guard: the limit must know who is known;
    7. rate limit: before the refusal of wrong keys, so that guessing is counted;
    8. require key; 9. roles; 10. protocol: a version is told to known callers alone; 11. body limit: the body of a refused
    request is never read; 12. direct routes.
    """
    stopping = Stopping()
    limit = parse_rate_limit(settings.rate_limit)
    origins = parse_origins(settings.cors_origins)
    trusted = parse_trusted_proxies(settings.trusted_proxies)
    base = parse_base_path(settings.base_path)
    if keys is None and settings.api_key is not None:
        keys = AdminKey(*settings.admin_keys)

    install_error_handlers(app)
    # The last one added is the outermost.
    app.add_middleware(DirectMiddleware, prefix=direct[0], routers=direct[1])
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes, exempt=exempt_body)
    app.add_middleware(ProtocolMiddleware)
    app.add_middleware(RoleMiddleware, rules=rules, require_held=require_held)
    app.add_middleware(RequireKeyMiddleware)
    if limit is not None:
        app.add_middleware(RateLimitMiddleware, limit=limit, by_key=settings.rate_limit_by == "key")
    if keys is None:
        app.add_middleware(DevelopmentGuardMiddleware)
    else:
        if sessions is not None:
            app.add_middleware(SessionMiddleware, sessions=sessions, keys=keys, path=base)
        app.add_middleware(IdentifyMiddleware, keys=keys, attempts=attempts or SignInAttempts())
    app.add_middleware(ProxyHeadersMiddleware, trusted=trusted, redirect_to_https=settings.production)
    app.add_middleware(UnexpectedErrorsMiddleware)
    if origins:
        app.add_middleware(CorsMiddleware, origins=origins)
    app.add_middleware(SecurityHeadersMiddleware, strict_transport=settings.production)
    app.add_middleware(RequestContextMiddleware, stopping=stopping, observe=observe)
    app.add_middleware(BasePathMiddleware, base=base)
    return stopping
