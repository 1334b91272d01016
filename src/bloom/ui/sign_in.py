"""Signing in and out, and the choice of a language."""

from fastapi import APIRouter, Request, Response

from bloom.base.errors import Throttled
from bloom.base.roles import Role
from bloom.ui.languages import LANGUAGE_COOKIE, LANGUAGES
from bloom.ui.pages import Pages, own_path, text_of
from bloom.web.auth import KeyRing
from bloom.web.proxies import client_of
from bloom.web.sessions import cookie, session_cookie
from bloom.web.sign_in import SignInAttempts

_LONGEST_KEY = 512
_YEAR_SEC = 365 * 86_400
_PEOPLE = frozenset({Role.ADMIN, Role.SUBMITTER, Role.READER})


def sign_in_routes(pages: Pages, keys: KeyRing | None, attempts: SignInAttempts) -> APIRouter:
    """The router at the root. `keys` None: development mode, where everybody on this machine is in. Wrong keys are counted in
    `attempts`, with those that come in headers.
    """
    router = APIRouter(include_in_schema=False)

    @router.get("/sign-in")
    async def form(request: Request) -> Response:
        if keys is None or pages.viewer(request).role in _PEOPLE:
            return pages.go(own_path(request.query_params.get("next")))
        return pages.page(request, "sign_in.html", next=own_path(request.query_params.get("next")), problem=None)

    @router.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        sent = await pages.form(request)
        target = own_path(text_of(sent, "next"))
        if keys is None:
            return pages.go(target)
        shown = text_of(sent, "key").strip()[:_LONGEST_KEY]
        principal = None
        if shown:
            try:
                principal = await attempts.find(client_of(request.scope), shown.encode(), keys.find)
            except Throttled as refusal:
                page = pages.page(request, "sign_in.html", status=429, next=target, problem="throttled")
                page.headers["Retry-After"] = str(refusal.retry_after_sec)
                return page
        if principal is None or principal.role not in _PEOPLE:
            problem = "unknown" if principal is None else "role"
            return pages.page(request, "sign_in.html", status=401, next=target, problem=problem)
        answer = pages.go(target)
        value = pages.sessions.open(principal.subject)
        answer.headers.append("Set-Cookie", session_cookie(request.scope, value, path=pages.base))
        return answer

    @router.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        await pages.form(request)
        answer = pages.go("/sign-in", notice="signed_out")
        answer.headers.append("Set-Cookie", session_cookie(request.scope, "", path=pages.base))
        return answer

    @router.post("/language")
    async def choose(request: Request) -> Response:
        sent = await pages.form(request)
        answer = pages.go(own_path(text_of(sent, "next")))
        if (chosen := text_of(sent, "language")) in LANGUAGES:
            kept = cookie(
                request.scope, LANGUAGE_COOKIE, chosen, path=pages.base, max_age_sec=_YEAR_SEC, http_only=True
            )
            answer.headers.append("Set-Cookie", kept)
        return answer

    return router
