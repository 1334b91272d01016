"""The short way to the routes on which the load of the queue lies: past the framework's routing and dependency solving.

A `DirectRoute` is declared like any other route, and the framework describes it in the OpenAPI document. What its signature
asks for is found out once, at start; a request for it then costs a match of its path, the parse of its body and the call.
`make bench` shows what that is worth: the framework takes most of the time of such a request.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi import APIRouter, params
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from bloom.base.errors import BloomError
from bloom.web.asgi import header, note_template, route_path
from bloom.web.bodies import StrictRoute, parse_json, read_body
from bloom.web.errors import error_response, json_error
from bloom.web.validation import describe_problems

Endpoint = Callable[..., Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class _Signature:
    """What an endpoint asks for, by the names of its parameters."""

    bodies: Sequence[tuple[str, TypeAdapter[Any], bool]]
    """Name, model, and whether it may be left out."""
    headers: Sequence[tuple[str, bytes, TypeAdapter[Any], str]]
    dependencies: Sequence[tuple[str, Callable[..., Awaitable[Any]], str | None]]
    """Name, dependency, and the parameter of the path that it takes; None: it takes the request."""
    request: str | None


class DirectRoute(StrictRoute):
    """A route that `DirectMiddleware` serves.

    Its endpoint is a coroutine that returns a Response. It may ask for one JSON body (a model, which has no default or
    None), headers, the request, and coroutine dependencies of one parameter each: one of the path, or the request.
    Raises TypeError at start for anything else.
    """

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._signature = _read_signature(endpoint, path)

    async def answer(self, path_params: Mapping[str, str], scope: Scope, receive: Receive) -> Response:
        """Call the endpoint. Raises BloomError, or whatever it raises."""
        signature, request = self._signature, Request(scope, receive)
        given: dict[str, Any] = {}
        problems: list[dict[str, Any]] = []
        for name, alias, adapter, shown in signature.headers:
            if (value := header(scope, alias)) is not None:
                try:
                    given[name] = adapter.validate_python(value.decode("latin-1"))
                except ValidationError as error:
                    problems += _placed(error, "header", shown)
        for name, adapter, optional in signature.bodies:
            body = await read_body(receive)
            if body is None and optional:
                continue
            try:
                given[name] = adapter.validate_python({} if body is None else parse_json(body))
            except ValidationError as error:
                problems += _placed(error, "body")
        # Who may not call learns that first, as on every other route.
        for name, dependency, param in signature.dependencies:
            given[name] = await dependency(request if param is None else path_params[param])
        if problems:
            return json_error(400, "invalid", describe_problems(problems))
        if signature.request is not None:
            given[signature.request] = request
        return await self.endpoint(**given)


def _placed(error: ValidationError, *place: str) -> list[dict[str, Any]]:
    return [{**problem, "loc": (*place, *problem["loc"])} for problem in error.errors(include_url=False)]


def _read_signature(endpoint: Endpoint, path: str) -> _Signature:
    hints = get_type_hints(endpoint, include_extras=True)
    bodies: list[tuple[str, TypeAdapter[Any], bool]] = []
    headers: list[tuple[str, bytes, TypeAdapter[Any], str]] = []
    dependencies: list[tuple[str, Callable[..., Awaitable[Any]], str | None]] = []
    request: str | None = None
    for name, parameter in inspect.signature(endpoint).parameters.items():
        hint, marks = hints[name], ()
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        depends = next((mark.dependency for mark in marks if isinstance(mark, params.Depends)), None)
        in_header = next((mark for mark in marks if isinstance(mark, params.Header)), None)
        is_model = any(inspect.isclass(kind) and issubclass(kind, BaseModel) for kind in (*get_args(hint), hint))
        if depends is not None:
            dependencies.append((name, depends, _takes(depends, path)))
        elif in_header is not None and in_header.alias is not None:
            adapter = TypeAdapter[Any](hints[name])
            headers.append((name, in_header.alias.lower().encode(), adapter, in_header.alias))
        elif hint is Request:
            request = name
        elif is_model and not bodies:
            bodies.append((name, TypeAdapter[Any](hints[name]), parameter.default is None))
        else:
            raise TypeError(f"a direct route cannot fill {name!r} of {endpoint.__qualname__}")
    return _Signature(bodies, headers, dependencies, request)


def _takes(dependency: Callable[..., Any], path: str) -> str | None:
    taken = list(inspect.signature(dependency).parameters)
    if len(taken) == 1 and inspect.iscoroutinefunction(dependency):
        if f"{{{taken[0]}}}" in path:
            return taken[0]
        if get_type_hints(dependency).get(taken[0]) is Request:
            return None
    raise TypeError(f"a direct route cannot fill the dependency {dependency.__qualname__}")


class DirectMiddleware:
    """Serves the direct routes of `routers`, all below `prefix`, and hands everything else on."""

    def __init__(self, app: ASGIApp, *, routers: Iterable[APIRouter], prefix: str) -> None:
        self.app = app
        self._by_method: dict[str, list[tuple[re.Pattern[str], str, DirectRoute]]] = {}
        for route in (route for router in routers for route in router.routes if isinstance(route, DirectRoute)):
            for method in route.methods or ():
                template = prefix + route.path
                self._by_method.setdefault(method, []).append((compile_path(template)[0], template, route))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (candidates := self._by_method.get(scope["method"])) is not None:
            path = route_path(scope)
            for pattern, template, route in candidates:
                if (match := pattern.match(path)) is not None:
                    note_template(scope, template)
                    try:
                        answer = await route.answer(match.groupdict(), scope, receive)
                    except BloomError as error:
                        answer = error_response(error)
                    await answer(scope, receive, send)
                    return
        await self.app(scope, receive, send)
