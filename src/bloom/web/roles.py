"""Who may use which route: one rule per route, enforced in one place, before the body of a request is read.

A route without a rule is the admin's alone, and `tests/keys` fails for it.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from bloom.base.errors import BloomError, Forbidden
from bloom.base.ids import TaskId, WorkerId
from bloom.base.roles import Role
from bloom.web.asgi import route_path
from bloom.web.auth import Principal, forget_principal, is_guarded, principal_of, unauthorized
from bloom.web.errors import error_response


class Reach(Enum):
    """How far a worker's key reaches on a route that its role may use."""

    OWN_NAME = auto()
    """The path names the worker itself."""
    TASKS_IT_HELD = auto()
    """The path names a task of which the worker holds or held a lease."""
    FENCED = auto()
    """The route hands the worker's id to the statement, which changes nothing of another worker's."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may use a route. `reach` bounds the role `worker`, where it is among `roles`.

    `strangers`: it answers to everybody, and takes who has none of `roles` for a caller without a key.
    """

    roles: frozenset[Role]
    reach: Reach = Reach.FENCED
    strangers: bool = False


RequireHeld = Callable[[TaskId, WorkerId], Awaitable[None]]
"""Raises Forbidden for a task of which the worker neither holds nor held a lease."""

NO_RULES: Mapping[tuple[str, str], Rule] = {}


async def none_is_held(task_id: TaskId, worker_id: WorkerId) -> None:
    """The answer where nothing is known of leases."""
    raise Forbidden("A worker's key reaches no task here.")


class RoleMiddleware:
    """Answers 403 `forbidden` to a known caller whose role, or whose worker, a route is not for, and 401 to a caller who is not
    known where a page asks for one.

    `rules` are by method and path as the routes have them (`/workers/{worker_id}`). They are matched by the router's own
    patterns, on the string that it matches, so that no way of writing a path gets around them. `require_held`
    judges for `Reach.TASKS_IT_HELD`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rules: Mapping[tuple[str, str], Rule] = NO_RULES,
        require_held: RequireHeld = none_is_held,
    ) -> None:
        self.app = app
        self._require_held = require_held
        self._plain = {key: rule for key, rule in rules.items() if "{" not in key[1]}
        self._patterns: dict[str, list[tuple[re.Pattern[str], Rule]]] = {}
        for (method, path), rule in rules.items():
            if "{" in path:
                self._patterns.setdefault(method, []).append((compile_path(path)[0], rule))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await self._judge(scope, principal_of(scope))
            except BloomError as refusal:
                await error_response(refusal)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _judge(self, scope: Scope, principal: Principal | None) -> None:
        method, path = scope["method"], route_path(scope)
        rule, named = self._find(method, path)
        if principal is None:
            # Below `/api` who is not known was refused before this, unless the path is open.
            if rule is not None and not rule.strangers and not is_guarded(method, path):
                raise unauthorized()
        elif rule is None:
            if principal.role is not Role.ADMIN:
                if is_guarded(method, path):
                    raise Forbidden(f"A key with the role {principal.role} may not use this path.")
                forget_principal(scope)
        elif principal.role not in rule.roles:
            if not rule.strangers:
                needed = " or ".join(role for role in Role if role in rule.roles)
                raise Forbidden(f"This needs a key with the role {needed}; this key's role is {principal.role}.")
            forget_principal(scope)
        elif principal.role is Role.WORKER and rule.reach is not Reach.FENCED:
            await self._check_reach(rule.reach, named, principal)

    def _find(self, method: str, path: str) -> tuple[Rule | None, Mapping[str, str]]:
        if (rule := self._plain.get((method, path))) is not None:
            return rule, {}
        for pattern, rule in self._patterns.get(method, ()):
            if (match := pattern.match(path)) is not None:
                return rule, match.groupdict()
        return None, {}

    async def _check_reach(self, reach: Reach, named: Mapping[str, str], principal: Principal) -> None:
        if reach is Reach.OWN_NAME:
            require_own_name(principal, named.get("worker_id"))
        elif principal.worker_id is None:
            raise Forbidden("This key speaks for no worker.")
        else:
            await self._require_held(TaskId(named.get("task_id", "")), principal.worker_id)


def require_own_name(principal: Principal, worker_name: str | None) -> None:
    """Raise Forbidden when `principal` is the key of a worker that is not called `worker_name`."""
    if principal.role is Role.WORKER and (principal.worker_id is None or principal.worker_id != worker_name):
        raise Forbidden(f"This key speaks for the worker {principal.worker_id!r} and for no other.")
