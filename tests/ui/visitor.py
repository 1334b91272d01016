"""A person with a browser that runs no scripts: pages by HTTP, with cookies and the forms that the pages hold."""

import html
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import httpx
from tests.real_runtime import Replica, told

from bloom.base.roles import Role

ADMIN_KEY = "the key of the environment"
_TOKEN = re.compile(r'name="form_token" value="([0-9a-f]{64})"')
_LANGUAGE = {"Accept": "text/html", "Accept-Language": "en"}


class Visitor:
    """Looks at the pages of `url`; `base` is the path below which they are."""

    def __init__(self, url: str, *, base: str = "", **headers: str) -> None:
        self.base = base
        self.http = httpx.Client(base_url=url, headers={**_LANGUAGE, **headers}, timeout=30, trust_env=False)

    def get(self, path: str, **query: Any) -> httpx.Response:
        return self.http.get(self.base + path, params=query or None)

    def page(self, path: str, **query: Any) -> str:
        """The text of a page that is there."""
        answer = self.get(path, **query)
        assert answer.status_code == 200, (answer.status_code, answer.text[:2000])
        return answer.text

    def token(self, path: str = "/sign-in") -> str:
        """What forms of this visitor's session carry."""
        found = _TOKEN.search(self.get(path).text)
        assert found, path
        return found[1]

    def post(
        self, path: str, *, on: str = "/workers", files: Any = None, **fields: str | Sequence[str]
    ) -> httpx.Response:
        """Send the form that the page `on` holds (any page has the token)."""
        return self.http.post(self.base + path, data={"form_token": self.token(on), **fields}, files=files)

    def sign_in(self, key: str, **fields: str) -> httpx.Response:
        return self.post("/sign-in", on="/sign-in", key=key, **fields)

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def signed_in(replica: Replica, role: Role = Role.ADMIN, **headers: str) -> Generator[Visitor]:
    """A visitor with a key of this role."""
    key = ADMIN_KEY
    if role is not Role.ADMIN:
        name = f"{role} {len(told(replica.get('/keys')))}"
        key = told(replica.post("/keys", {"name": name, "role": role}), 201)["key"]
    with Visitor(replica.url, **headers) as visitor:
        assert visitor.sign_in(key).status_code == 303
        yield visitor


def words_of(page: str) -> str:
    """What of a page is read: no tags, one space between words."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
