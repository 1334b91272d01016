"""Worker and runtime agree on a version of the protocol at the first call, or the runtime says which side to upgrade."""

from typing import Any

import pytest
from tests.real_runtime import Replica, refused, told

from bloom import __version__
from bloom.base.protocol import OLDEST, PROTOCOL
from bloom.client import RuntimeClient

RANGE = f"{OLDEST}-{PROTOCOL}"
CALLS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/workers", {"name": "w"}),
    ("POST", "/workers/w/claim", {"request_id": "r"}),
    ("POST", "/workers/w/extend", {"leases": []}),
    ("POST", "/workers/w/complete", {"completions": [{}]}),
    ("POST", "/llm-tasks/t/events", {"lease_id": "l", "events": [{"seq": 1, "type": "text"}]}),
    ("PUT", "/llm-tasks/t/output?lease_id=l&offset=0", None),
]


@pytest.mark.parametrize(("method", "path", "body"), CALLS, ids=[path.split("?")[0] for _, path, _ in CALLS])
def test_a_worker_of_another_version_is_told_which_side_to_upgrade(
    quiet_runtime: Replica, method: str, path: str, body: dict[str, Any] | None
) -> None:
    for speaks, side in ((PROTOCOL + 1, "upgrade the runtime"), (OLDEST - 1, "upgrade the worker")):
        answer = quiet_runtime.http.request(method, path, json=body, headers={"X-Bloom-Protocol": str(speaks)})
        assert refused(answer, 409) == "protocol_mismatch"
        assert side in answer.json()["error"] and __version__ in answer.json()["error"]
        assert (answer.json()["oldest"], answer.json()["newest"]) == (OLDEST, PROTOCOL)
        assert answer.headers["x-bloom-protocol"] == RANGE


@pytest.mark.parametrize("said", ["", "one", "1.0", "-1", "1" * 40])
def test_a_version_that_is_no_number_is_refused(quiet_runtime: Replica, said: str) -> None:
    answer = quiet_runtime.http.post("/workers", json={"name": "w"}, headers={"X-Bloom-Protocol": said})
    assert refused(answer, 409) == "protocol_mismatch"


def test_a_caller_that_says_nothing_speaks_version_1(quiet_runtime: Replica) -> None:
    assert OLDEST == 1
    answer = quiet_runtime.post("/workers", {"name": "w"})
    assert answer.status_code == 201 and answer.headers["x-bloom-protocol"] == RANGE


def test_calls_that_are_not_of_workers_are_answered_whatever_version_they_name(quiet_runtime: Replica) -> None:
    headers = {"X-Bloom-Protocol": "99"}
    answer = quiet_runtime.http.get("/llm-tasks", headers=headers)
    assert told(answer) == [] and answer.headers["x-bloom-protocol"] == RANGE
    assert quiet_runtime.http.get("/workers", headers=headers).status_code == 200
    assert quiet_runtime.http.post("/llm-tasks/none/heartbeat", json={}, headers=headers).status_code == 404


@pytest.mark.anyio
async def test_our_client_names_its_version_on_every_call(
    quiet_runtime: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RuntimeClient(quiet_runtime.url) as client:
        await client.request("POST", "/workers", json={"name": "w"})
    monkeypatch.setattr("bloom.web.protocol.PROTOCOL", PROTOCOL - 1)
    async with RuntimeClient(quiet_runtime.url) as client:
        with pytest.raises(Exception, match="upgrade the runtime"):
            await client.request("POST", "/workers", json={"name": "w"})
