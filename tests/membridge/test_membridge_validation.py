"""What each field of the control plane refuses, and takes."""

from typing import Any

import pytest
from tests.real_membridge import Membridge
from tests.real_runtime import refused
from tests.runtime.bad_values import OBJECT, TRUTH, Kind, cases, many, number, one_of, placed, text, whole

from bloom.membridge.model import canonical_id_of, version_key

CID = canonical_id_of("project")
SHA = "a" * 64
KEY = version_key(CID, 1, SHA)
NAME = text(128)
AGENT = Kind((*NAME.bad, "a/b", ".", ".."), NAME.good)
BIG = whole(0, 2**62)
HEX16 = Kind((1, None, "", "a" * 15, "a" * 17, "A" * 16, "g" * 16, "../../../../etc/", "a" * 16 + "\n"), ("0" * 16,))
HEX64 = Kind((1, None, "", "a" * 63, "a" * 65, "A" * 64, "a" * 64 + "\n"), ("0" * 64,))
OR_NULL = Kind(tuple(value for value in HEX64.bad if value is not None), (None, "0" * 64))
URL = Kind(
    (
        1,
        "",
        "host",
        "ftp://host",
        "http://",
        "http://host:99999",
        "http://u:p@host",
        "http://h/?q",
        "http://h\x00",
        "javascript:x",
    ),
    (None, "http://host", "https://host.example:8001/path", "http://[::1]:8001"),
)
LABELS = many(text(128), 64)

_NAMELESS = text(1024, empty=True, null=True)

BODIES: dict[str, tuple[dict[str, Any], dict[str, Kind]]] = {
    "/projects": ({"name": "n"}, {"name": Kind((*NAME.bad, " ", "\t\n", "\N{NO-BREAK SPACE}"), NAME.good)}),
    "/agents": (
        {"name": "n"},
        {
            "name": AGENT,
            "url": URL,
            "status": one_of("online", "offline", "syncing", "error", "unknown"),
            "capabilities": OBJECT,
            "capabilities.claude_cli": TRUTH,
            "capabilities.max_concurrency": whole(1, 32),
            "capabilities.labels": LABELS,
        },
    ),
    "/agent/heartbeat": (
        {"node_id": "n", "canonical_id": CID},
        {
            "node_id": NAME,
            "canonical_id": Kind(HEX16.bad, (CID,)),
            "obs_count": whole(0, 2**62, null=True),
            "db_sha": text(1024, empty=True, null=True),
            "last_seen": number(0, 1e15, null=True),
            "ip_addrs": many(text(255, empty=True), 64),
            "project_id": Kind((*_NAMELESS.bad, "another"), (None, "", " ", "project")),
            "agent_version": text(1024, empty=True, null=True),
            "asks": TRUTH,
        },
    ),
    f"/projects/{CID}/leadership/select": (
        {"primary_node_id": "n"},
        {"primary_node_id": NAME, "lease_seconds": whole(1, 2_592_000, null=True)},
    ),
    f"/projects/{CID}/versions": (
        {"node_id": "n", "epoch": 1, "sha256": SHA, "key": KEY, "db_size": 1},
        {
            "node_id": NAME,
            "epoch": BIG,
            "sha256": HEX64,
            "key": Kind(("k", *text(1024).bad), (KEY,)),
            "db_size": BIG,
            "counts": Kind((1, "a", [], None, {"a": -1}, {"a": "1"}, {"a": True}, {"a\x00": 1}), ({}, {"a": 1})),
            "based_on": OR_NULL,
            "force": TRUTH,
        },
    ),
    f"/projects/{CID}/versions/{SHA}/restore": ({"node_id": "n", "epoch": 1}, {"node_id": NAME, "epoch": BIG}),
    "/sync/push": (
        {"project": "n", "agent": "n"},
        {"project": NAME, "agent": AGENT, "dryrun": TRUTH},
    ),
    "/agents/n/commands": ({}, {"wait_sec": Kind((True, "1", -1, 61, 1e300, None, []), (0, 0.0))}),
    "/agents/n/jobs/j/report": (
        {"status": "running"},
        {
            "status": one_of("running", "done", "failed"),
            "detail": Kind((1, True, [], {}), (None, "x", "\x00")),
            "stdout": Kind((1, True, [], {}), (None, "x", "\x00")),
            "stderr": Kind((1, True, [], {}), (None, "x", "\x00")),
            "returncode": whole(-(2**31), 2**31 - 1, null=True),
            "progress": number(0, 1, null=True),
        },
    ),
}


@pytest.mark.parametrize("path", BODIES)
def test_a_bad_value_is_a_400_that_names_its_field_and_a_good_one_is_not(plane: Membridge, path: str) -> None:
    body, fields = BODIES[path]
    for field, value in cases(fields):
        answer = plane.post(path, placed(body, field, value))
        assert refused(answer, 400) == "invalid", (field, value)
        named = answer.json()["error"]["fieldErrors"]
        assert any(name == field or name.startswith(f"{field}.") for name in named), (field, value, named)
        assert not any(name.endswith((".float", ".int")) for name in named), (field, value, named)
    for field, kind in fields.items():
        for value in kind.good:
            said = placed(body, field, value)
            if "key" in said:
                said["key"] = version_key(CID, said["epoch"], said["sha256"])
            answer = plane.post(path, said)
            assert answer.status_code in (200, 201, 404, 409, 502), (field, value, answer.text)


@pytest.mark.parametrize("path", BODIES)
def test_a_body_that_is_not_an_object_or_not_json_is_a_400(plane: Membridge, path: str) -> None:
    for content in (b"[]", b'"x"', b"1", b"{", b"\xff", b'{"a": NaN}', b"[" * 300):
        assert refused(plane.http.post(path, content=content), 400) in ("invalid", "invalid_json"), content
    if path != "/agents/n/commands":
        assert refused(plane.http.post(path), 400) == "invalid"


def test_what_a_field_must_be_is_said_in_words(plane: Membridge) -> None:
    bad = {"node_id": "n", "canonical_id": "A" * 16, "last_seen": "now"}
    assert plane.post("/agent/heartbeat", bad).json()["error"]["fieldErrors"] == {
        "canonical_id": ["Must be 16 lower-case hex digits"],
        "last_seen": ["Must be a number"],
    }
    fields = plane.post("/agents/n/commands", {"wait_sec": 99}).json()["error"]["fieldErrors"]
    assert fields == {"wait_sec": ["Must be at most 60"]}


def test_a_path_that_can_name_nothing_is_a_404(plane: Membridge) -> None:
    for method, path, code in (
        ("GET", "/projects/{}/nodes", "project_not_found"),
        ("GET", "/projects/{}/leadership", "project_not_found"),
        ("GET", "/projects/{}/versions", "project_not_found"),
        ("DELETE", "/projects/{}", "project_not_found"),
        ("DELETE", "/agents/{}", "agent_not_found"),
        ("POST", "/agents/{}/commands", "agent_not_found"),
        ("GET", "/jobs/{}", "job_not_found"),
    ):
        for name in ("x", "%00", "a" * 600, "%ED%A0%80", "A" * 16, CID, "%27%3B--"):
            assert refused(plane.http.request(method, path.format(name)), 404) == code, (path, name)
