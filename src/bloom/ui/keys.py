"""Keys on the page of the settings: the list, and the form for a new one."""

from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import FormData

from bloom.base.errors import Conflict, InvalidInput
from bloom.base.roles import Role
from bloom.keys.schemas import CreateKey
from bloom.keys.service import KeyService, MadeKey
from bloom.ui.listing import PAGE_ROWS, before_of, cursor_after, split
from bloom.ui.notices import N_
from bloom.ui.pages import Pages, text_of

ROLES = (Role.READER, Role.SUBMITTER, Role.WORKER, Role.ADMIN)
"""What a key can be made for here. Join tokens are made where workers are added."""

DAY_SEC = 86_400
LIVES = (0, DAY_SEC, 30 * DAY_SEC, 365 * DAY_SEC)
"""After how many seconds a key ends; 0: when it is revoked."""

_PROBLEMS = {
    "name": N_("1 to 128 printable characters, without spaces around them."),
    "name_taken": N_("A key has, or had, this name; names are never used again."),
    "worker_name": N_("Say which worker the key is for."),
}


@dataclass(frozen=True, slots=True)
class KeyForm:
    """What the form for a new key says."""

    name: str = ""
    role: str = Role.SUBMITTER.value
    worker_name: str = ""
    life: int = 0
    problem: str | None = None
    """Which field is wrong, or `name_taken`."""

    @property
    def words(self) -> str:
        """What is wrong, in English."""
        return "" if self.problem is None else _PROBLEMS[self.problem]


NO_KEY_FORM = KeyForm()


async def key_list(pages: Pages, keys: KeyService, request: Request) -> dict[str, Any]:
    """What the page shows of keys, newest first."""
    found = await keys.page(before=before_of(request.query_params), limit=PAGE_ROWS + 1)
    shown, more = split(found)
    return {
        "keys": shown,
        "next_url": pages.url("/settings", cursor=cursor_after(shown[-1].seq)) if more else None,
        "roles": ROLES,
        "lives": LIVES,
    }


def read_key_form(sent: FormData) -> KeyForm:
    """What was sent. Raises InvalidInput for a role or a life that the form does not offer."""
    role, life = text_of(sent, "role"), text_of(sent, "life")
    if role not in ROLES or life not in map(str, LIVES):
        raise InvalidInput("The form offers no such role, or no such life of a key.")
    return KeyForm(text_of(sent, "name").strip(), role, text_of(sent, "worker_name").strip(), int(life))


async def make_key(keys: KeyService, form: KeyForm, *, actor: str) -> MadeKey | KeyForm:
    """The new key, or the form with what is wrong of it."""
    worker_name = form.worker_name if form.role == Role.WORKER else ""
    try:
        wanted = CreateKey(
            name=form.name,
            role=Role(form.role),
            worker_name=worker_name or None,
            expires_in_sec=form.life or None,
        )
        return await keys.create(wanted, actor=actor)
    except ValidationError as error:
        bad = {str(problem["loc"][0]) if problem["loc"] else "worker_name" for problem in error.errors()}
        return replace(form, problem="name" if "name" in bad else "worker_name")
    except Conflict:
        return replace(form, problem="name_taken")
