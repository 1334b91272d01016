"""Errors outside of the API as a page for people, and the way to the sign-in for who has not signed in."""

import json
from typing import Any, cast
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bloom.ui.membridge import WORDS
from bloom.ui.notices import N_
from bloom.ui.pages import Pages
from bloom.web.asgi import route_path

_WORDS = {
    **WORDS,
    "not_found": N_("There is nothing here. It may have been deleted, or the address is wrong."),
    "forbidden": N_("Your key does not allow this."),
    "form_expired": N_("This form is from another session. Go back, reload the page and try again."),
    "already_final": N_("The task has ended already."),
    "not_requeueable": N_("Only a failed, dead or cancelled task can be requeued."),
    "rate_limited": N_("Too many requests. Please wait a moment and try again."),
    "database_unavailable": N_("The database does not answer. Nothing was changed; please try again in a moment."),
    "internal": N_("Something went wrong on our side. The log of the runtime says more, under the number below."),
    "too_large": N_("This is too large."),
    "method_not_allowed": N_("This page takes no such request."),
    "task_not_found": N_("There is no such task; it may have been deleted."),
    "worker_not_found": N_("There is no such worker; it may have been removed."),
    "artifact_not_found": N_("There is no such artifact; it may have been deleted with its task."),
    "key_not_found": N_("There is no such key."),
    "blob_unavailable": N_("The object store does not answer. Try again in a moment."),
    "blob_missing": N_("The content is not in the object store any more."),
}

_TITLES = {
    400: N_("This cannot be understood"),
    403: N_("Not allowed"),
    404: N_("Not found"),
    405: N_("Not possible"),
    409: N_("Not possible now"),
    413: N_("Too large"),
    429: N_("Too much at once"),
    500: N_("Something went wrong"),
    502: N_("A service behind this one failed"),
    503: N_("Not available at this moment"),
}


class ErrorPagesMiddleware:
    """Turns JSON errors of paths outside `/api/` into pages, where a browser asks for one."""

    def __init__(self, app: ASGIApp, *, pages: Pages) -> None:
        self.app = app
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope).startswith("/api/") or not _wants_page(scope):
            await self.app(scope, receive, send)
            return
        begun: Message | None = None
        body = b""

        async def page_send(message: Message) -> None:
            nonlocal begun, body
            if message["type"] == "http.response.start" and _is_json_error(message):
                begun = message
            elif begun is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    answer = self._page(scope, begun, json.loads(body or b"{}"))
                    await answer(scope, receive, send)

        await self.app(scope, receive, page_send)

    def _page(self, scope: Scope, begun: Message, error: dict[str, Any]) -> Response:
        request = Request(scope)
        if begun["status"] == 401 and self._pages.asks_for_keys and route_path(scope) != "/sign-in":
            answer: Response = self._sign_in(request)
        else:
            say = self._pages.viewer(request).language.say
            code, told = str(error.get("code", "")), error.get("error")
            answer = self._pages.page(
                request,
                "error.html",
                status=begun["status"],
                title=say(_TITLES.get(begun["status"], _TITLES[500])),
                words=say(_WORDS[code]) if code in _WORDS else told if isinstance(told, str) else _problems(told),
                code=code,
                number=_header(begun, b"x-request-id"),
            )
        # What the layers within have set (request id, security headers, limits) stays.
        own = {b"content-type", b"content-length", b"location", *(name for name, _ in answer.raw_headers)}
        answer.raw_headers.extend(pair for pair in begun["headers"] if pair[0].lower() not in own)
        return answer

    def _sign_in(self, request: Request) -> Response:
        path, query = quote(route_path(request.scope)), request.url.query
        if path == "/" or request.method != "GET":
            return RedirectResponse(self._pages.url("/sign-in"), 303)
        return RedirectResponse(self._pages.url("/sign-in", next=path + (f"?{query}" if query else "")), 303)


def _wants_page(scope: Scope) -> bool:
    return b"text/html" in dict(scope["headers"]).get(b"accept", b"")


def _is_json_error(message: Message) -> bool:
    return message["status"] >= 400 and _header(message, b"content-type").startswith("application/json")


def _header(message: Message, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in message["headers"] if key.lower() == name), "")


def _problems(told: Any) -> str:
    fields = cast(dict[str, list[str]], told.get("fieldErrors", {}) if isinstance(told, dict) else {})  # pyright: ignore[reportUnknownMemberType]
    return "; ".join(f"{name}: {' '.join(texts)}" for name, texts in fields.items())
