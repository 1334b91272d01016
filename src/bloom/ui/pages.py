"""What all pages share: who looks, in which language, the frame around the content, forms that no other site can send."""

import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import cached_property, partial
from typing import Any
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.datastructures import FormData, QueryParams
from starlette.responses import HTMLResponse, RedirectResponse

from bloom import __version__
from bloom.base.errors import Forbidden
from bloom.base.roles import Role
from bloom.ui.assets import LIBRARIES, assets, missing_libraries
from bloom.ui.formatting import Formats
from bloom.ui.languages import LANGUAGES, Language, choose_language
from bloom.ui.live import AT_LEAST_EVERY_SEC, LiveRegions
from bloom.ui.notices import NOTICES
from bloom.web.asgi import route_path
from bloom.web.auth import Principal, principal_of
from bloom.web.sessions import Sessions, session_id_of
from bloom.web.sse import SseEvent, event_stream

FORM_TOKEN = "form_token"  # noqa: S105 - the name of a field
_OWN_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")
ZONE_COOKIE = "bloom_zone"
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,40}(/[A-Za-z0-9_+-]{1,40}){0,2}")


@dataclass(frozen=True)
class Viewer:
    """Who looks at a page, in which language. `principal` is None before signing in."""

    principal: Principal | None
    language: Language
    session_id: str = ""
    zone: tzinfo = UTC

    @property
    def role(self) -> Role | None:
        """What the viewer may do."""
        return None if self.principal is None else self.principal.role

    @property
    def may_submit(self) -> bool:
        """Whether the viewer may create, cancel and requeue tasks."""
        return self.role in (Role.ADMIN, Role.SUBMITTER)

    @property
    def is_admin(self) -> bool:
        """Whether the viewer may do everything."""
        return self.role is Role.ADMIN

    @property
    def name(self) -> str:
        """By which the audit log tells the viewer."""
        return "" if self.principal is None else self.principal.name

    def day_began(self) -> datetime:
        """When today began where the viewer is."""
        return datetime.now(self.zone).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)

    @cached_property
    def formats(self) -> Formats:
        """How numbers and times are written for the viewer."""
        return Formats(self.language.code)


Load = Callable[[QueryParams, Viewer], Awaitable[Mapping[str, Any]]]
"""What a live page shows, by its query, in which the parameters of its path stand, too. `status` is that of the page."""


class Pages:
    """Renders pages. `asks_for_keys` is False in development mode, where nobody signs in; `base` is the path below which all is
    served.
    """

    def __init__(self, *, base: str, sessions: Sessions, asks_for_keys: bool, regions: LiveRegions) -> None:
        self.base = base
        self.sessions = sessions
        self.asks_for_keys = asks_for_keys
        self.regions = regions
        self._environments: dict[str, Environment] = {}

    def url(self, path: str, **query: object) -> str:
        """The address of a page or file of ours, given as `/tasks`; parameters that are None or "" are left out."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return f"{self.base}{path}" + (f"?{urlencode(given, doseq=True)}" if given else "")

    def asset(self, name: str) -> str:
        """The address of a file, which is another one when its content is."""
        return self.url(f"/static/{name}", v=assets()[name].mark)

    def viewer(self, request: Request) -> Viewer:
        """Who looks."""
        session_id, zone = session_id_of(request.scope), _zone(request.cookies.get(ZONE_COOKIE, ""))
        return Viewer(principal_of(request.scope), choose_language(request), session_id, zone)

    def render(self, template: str, viewer: Viewer, **context: Any) -> str:
        """A template as text. Within are `viewer`, `f` (formats), `url`, `asset` and `_` beside `context`."""
        return (
            self._environment(viewer.language)
            .get_template(template)
            .render(viewer=viewer, f=viewer.formats, version=__version__, **context)
        )

    def page(self, request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
        """A whole page. `?notice=` of the request names a word on what was done before it."""
        viewer = self.viewer(request)
        notice = NOTICES.get(request.query_params.get("notice", ""))
        html = self.render(
            template,
            viewer,
            **{
                "form_token": self.sessions.form_token(viewer.session_id),
                "path": quote(route_path(request.scope)) or "/",
                "query": request.url.query,
                "notice": None if notice is None else viewer.language.say(notice),
                "live_url": None,
                **context,
            },
        )
        headers = {"Cache-Control": "no-store", "Vary": "Cookie, Accept-Language"}
        return HTMLResponse(html, status, headers)

    def live_page(
        self, router: APIRouter, path: str, name: str, load: Load, *, every_sec: float = AT_LEAST_EVERY_SEC
    ) -> None:
        """Serve `name`.html at `path`, and at `/live<path>` its part `name`_region.html, again whenever it changed; it is
        looked at every `every_sec` without news, too.
        """

        async def whole(request: Request) -> Response:
            query = request.url.query
            live_url = self.url(f"/live{quote(route_path(request.scope))}") + (f"?{query}" if query else "")
            context = await load(_parameters(request), self.viewer(request))
            return self.page(request, f"{name}.html", live_url=live_url, **context)

        async def live(request: Request) -> Response:
            viewer, params = self.viewer(request), _parameters(request)

            async def render() -> str:
                # No form token: the region is shared by all who may see the same. The page's script adds its own.
                return self.render(f"{name}_region.html", viewer, form_token=None, **await load(params, viewer))

            key = (name, str(params), viewer.language.code, viewer.role, str(viewer.zone))
            return event_stream(self.region_events(self.regions.follow(key, render, every_sec=every_sec)))

        router.add_api_route(path, whole, methods=["GET"], name=name)
        router.add_api_route(f"/live{path}", live, methods=["GET"], name=f"live {name}")

    async def region_events(self, states: AsyncGenerator[str | None, None]) -> AsyncGenerator[SseEvent, None]:
        """The states of a region as its page takes them."""
        async with aclosing(states):
            async for html in states:
                yield SseEvent(text="", event="stale") if html is None else SseEvent(text=html, event="region")

    async def form(self, request: Request, *, files: int = 0) -> FormData:
        """What a form of ours sent, with up to `files` files, which are the caller's to close. Raises Forbidden
        (`form_expired`) for one that is not of the caller's own session.
        """
        form = await request.form(max_files=files, max_part_size=64 * 1024 * 1024)
        # Browsers tell whether another site sent it (w3.org/TR/fetch-metadata); the token holds where they do not.
        site = request.headers.get("sec-fetch-site", "same-origin")
        token = form.get(FORM_TOKEN)
        known = isinstance(token, str) and self.sessions.is_form_token(session_id_of(request.scope), token)
        if site not in ("same-origin", "none") or not known:
            await form.close()
            raise Forbidden(
                "This form is from another session. Go back, reload the page and try again.", code="form_expired"
            )
        return form

    def go(self, path: str, *, notice: str | None = None, **query: object) -> RedirectResponse:
        """Lead to a page of ours after a form was taken. `notice` names what it will say (`bloom.ui.notices`)."""
        before, _, given = path.partition("?")
        address = self.url(before) + (f"?{given}" if given else "")
        added = urlencode({**query, **({} if notice is None else {"notice": notice})})
        return RedirectResponse(address + (("&" if given else "?") + added if added else ""), 303)

    def _environment(self, wanted: Language) -> Environment:
        environment = self._environments.get(wanted.code)
        if environment is None:
            environment = Environment(
                loader=PackageLoader("bloom.ui"),
                autoescape=True,
                undefined=StrictUndefined,
                extensions=["jinja2.ext.i18n", "jinja2.ext.loopcontrols"],
                trim_blocks=True,
                lstrip_blocks=True,
            )
            environment.install_gettext_translations(wanted.words, newstyle=True)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
            shared: dict[str, Any] = {
                "url": self.url,
                "asset": self.asset,
                "libraries": [name for name in LIBRARIES if name in assets()],
                "missing_libraries": missing_libraries(),
                "languages": LANGUAGES,
                "asks_for_keys": self.asks_for_keys,
            }
            environment.globals.update(shared)
            environment.filters["json_text"] = partial(json.dumps, ensure_ascii=False)
            self._environments[wanted.code] = environment
        return environment


def _zone(name: str) -> tzinfo:
    """The zone that the page's script found, UTC for none that is known here."""
    if not _ZONE.fullmatch(name):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError):
        return UTC


def own_path(text: str | None, otherwise: str = "/") -> str:
    """`text` if it is a path of ours, so that no link leads through us to another site."""
    return text if text and len(text) <= 2000 and _OWN_PATH.fullmatch(text) else otherwise


def _parameters(request: Request) -> QueryParams:
    return QueryParams([*request.query_params.multi_items(), *request.path_params.items()])


def text_of(form: FormData, name: str) -> str:
    """A field of a form, "" for one that is missing or is a file; line ends as Unix writes them."""
    value = form.get(name)
    return value.replace("\r\n", "\n") if isinstance(value, str) else ""
