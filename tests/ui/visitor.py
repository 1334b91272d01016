"""A browser without scripts, as far as pages need one: it keeps cookies and sends the token of its forms."""

import re
from html import unescape
from types import TracebackType
from typing import Any, Self

import httpx

_TOKEN = re.compile(r'name="form-token" content="([^"]*)"')


class Visitor:
    """Visits pages below `url`; with a key it signs in first."""

    def __init__(self, url: str, key: str | None = None, *, language: str = "en") -> None:
        headers = {"Accept": "text/html", "Accept-Language": language}
        self.http = httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30)
        if key is not None:
            answer = self.post("/sign-in", at="/sign-in", key=key)
            assert answer.status_code == 303, answer.text

    def get(self, path: str, **params: str | int) -> httpx.Response:
        return self.http.get(path, params=params or None)

    def read(self, path: str, **params: str | int) -> str:
        """The page, which is there."""
        answer = self.get(path, **params)
        assert answer.status_code == 200, (answer.status_code, answer.text[:2000])
        return answer.text

    def post(self, path: str, *, at: str = "/tasks", files: Any = None, **fields: Any) -> httpx.Response:
        """The answer to a form of the page `at`."""
        found = _TOKEN.search(self.get(at).text)
        assert found is not None
        data = {"form_token": unescape(found[1]), **fields}
        return self.http.post(path, data=data, files=files, headers={"Sec-Fetch-Site": "same-origin"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.http.close()
