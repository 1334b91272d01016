"""The sign-in form of the pages and the header count wrong keys together."""

import re

import httpx
from tests.real_runtime import Replica

from bloom.web.sign_in import FREE_ATTEMPTS


def test_wrong_keys_in_the_form_make_the_address_wait_and_the_page_says_so(keyed: Replica) -> None:
    with httpx.Client(base_url=keyed.url, trust_env=False) as browser:
        form = re.search(r'name="form_token" value="([^"]+)"', browser.get("/sign-in").text)
        assert form is not None

        def sign_in(key: str) -> httpx.Response:
            return browser.post("/sign-in", data={"form_token": form[1], "key": key, "next": "/"})

        assert {sign_in("guess").status_code for _ in range(FREE_ATTEMPTS)} == {401}
        # The waits double: however slow this machine is, one of these comes too early.
        waiting = next(answer for answer in (sign_in("guess") for _ in range(9)) if answer.status_code == 429)
        assert int(waiting.headers["Retry-After"]) >= 1
        assert "Too many wrong keys from your address" in waiting.text
        header = browser.get("/api/runtime/stats", headers={"X-Runtime-API-Key": "another guess"})
        assert header.status_code in (401, 429)
