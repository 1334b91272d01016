"""The pages of Membridge, on the real control plane and on what is none."""

import hashlib
import socket
from collections.abc import Generator
from typing import Any

import pytest
from tests.real_membridge import KEY, Membridge
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica, told
from visitor import ADMIN_KEY, Visitor, signed_in, words_of

from bloom.base.roles import Role
from bloom.membridge.model import canonical_id_of

CID = canonical_id_of("project")
HERE = f"/membridge/{CID}"


@pytest.fixture(autouse=True)
def _nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Membridge said is not shown again a moment later."""
    monkeypatch.setattr("bloom.upstream.looking.KEPT_SEC", 0)


@pytest.fixture
def control_plane(database: FreshDatabase) -> Generator[Membridge]:
    with Membridge(database.url) as service:
        yield service


@pytest.fixture
def connected(start_replica: StartReplica, control_plane: Membridge) -> Replica:
    return start_replica(MEMBRIDGE_SERVER_URL=control_plane.url, MEMBRIDGE_ADMIN_KEY=KEY, RUNTIME_API_KEY=ADMIN_KEY)


@pytest.fixture
def admin(connected: Replica) -> Generator[Visitor]:
    with signed_in(connected) as visitor:
        yield visitor


def push(control_plane: Membridge, node: str) -> str:
    """A version of the project's memory, pushed by the node that leads; its digest."""
    lease = control_plane.leadership()["lease"]
    sha = hashlib.sha256(node.encode()).hexdigest()
    key = f"projects/{CID}/sqlite/versions/{lease['epoch']}-{sha}/claude-mem.db"
    body: dict[str, Any] = {"node_id": node, "epoch": lease["epoch"], "sha256": sha, "key": key, "db_size": 4096}
    told(control_plane.post(f"/projects/{CID}/versions", {**body, "counts": {"observations": 1234}}), 201)
    return sha


def test_projects_are_shown_with_who_leads_them(control_plane: Membridge, admin: Visitor) -> None:
    control_plane.heartbeat("<b>one</b>", obs_count=1234, db_sha="ab" * 32, agent_version="9.9")
    control_plane.heartbeat("two")
    told(control_plane.post("/agents", {"name": "pi"}), 201)
    page, words = admin.page("/membridge"), words_of(admin.page("/membridge"))
    assert f'href="{HERE}"' in page and "<b>one" not in page and "pi online" in words
    sha = push(control_plane, control_plane.select("two")["primary_node_id"])
    shown = admin.page(HERE)
    words = words_of(shown)
    assert "Leads now two" in words and "1,234" in words and "abababababab" in words and "9.9" in words
    assert "<b>one" not in shown and sha[:12] in words and "current" in words and "observations 1,234" in words


def test_a_node_is_made_the_leader_after_its_consequence_was_told(
    connected: Replica, control_plane: Membridge, admin: Visitor
) -> None:
    for node in ("one", "two & more"):
        control_plane.heartbeat(node)
    control_plane.select("one")
    link = f"{HERE}/promote?node=two+%26+more"
    assert link in admin.page(HERE).replace("&amp;", "&")
    asked = words_of(admin.page(link))
    assert "Let two & more lead project?" in asked and "one leads now and loses its lease at once" in asked
    assert control_plane.leadership()["lease"]["primary_node_id"] == "one"
    answer = admin.post(f"{HERE}/promote", node="two & more", hours="6")
    assert answer.headers["location"] == f"{HERE}?notice=promoted"
    lease = control_plane.leadership()["lease"]
    assert (lease["primary_node_id"], lease["lease_seconds"]) == ("two & more", 6 * 3600)
    assert "The node leads the project now." in words_of(admin.page(f"{HERE}?notice=promoted"))
    entry = told(connected.get("/audit", limit=1))[0]
    assert (entry["action"], entry["actor"], entry["detail"]["primary_node_id"]) == (
        "leadership_promote",
        "admin",
        "two & more",
    )


def test_a_sync_is_ordered_and_its_progress_seen(connected: Replica, control_plane: Membridge, admin: Visitor) -> None:
    control_plane.heartbeat("one")
    told(control_plane.post("/agents", {"name": "pi"}), 201)
    answer = admin.post(f"{HERE}/sync", agent="pi", direction="push", dryrun="on")
    assert answer.headers["location"] == f"{HERE}?notice=sync_started"
    assert "push (only a try) pi queued" in words_of(admin.page(HERE))
    (job,) = told(control_plane.post("/agents/pi/commands"))["jobs"]
    told(control_plane.post(f"/agents/pi/jobs/{job['id']}/report", {"status": "running", "progress": 0.25}))
    assert 'value="0.25"' in admin.page(HERE) and "25%" in words_of(admin.page(HERE))
    told(
        control_plane.post(
            f"/agents/pi/jobs/{job['id']}/report", {"status": "failed", "detail": "<b>the disk</b> is full"}
        )
    )
    page = admin.page(HERE)
    assert "<b>the disk" not in page and "&lt;b&gt;the disk&lt;/b&gt; is full" in page and "<progress" not in page
    entry = told(connected.get("/audit", limit=1))[0]
    assert (entry["action"], entry["entity_id"], entry["detail"]["job_id"]) == ("sync_ordered", "project", job["id"])


def test_what_membridge_refuses_is_told_in_words(control_plane: Membridge, admin: Visitor) -> None:
    control_plane.heartbeat("one")
    refused = admin.post(f"{HERE}/sync", agent="nobody", direction="pull")
    assert refused.status_code == 404 and "knows no such agent" in words_of(refused.text)
    assert admin.post(f"{HERE}/sync", agent="one", direction="sideways").status_code == 404
    refused = admin.post(f"{HERE}/promote", node="nobody")
    assert refused.status_code == 404 and "has to send a heartbeat first" in words_of(refused.text)
    assert admin.get(f"{HERE}/promote", node="nobody").status_code == 404
    for unknown in ("0" * 16, "no..thing", "%2e%2e%2fagents"):
        assert admin.get(f"/membridge/{unknown}").status_code == 404, unknown
        assert admin.post(f"/membridge/{unknown}/promote", node="one").status_code == 404, unknown


def test_an_agent_that_is_away_is_no_failure_of_membridge(
    connected: Replica, control_plane: Membridge, database: FreshDatabase, admin: Visitor
) -> None:
    control_plane.heartbeat("one")
    told(control_plane.post("/agents", {"name": "pi"}), 201)
    database.edit("update membridge.agents set last_seen = now() - interval '1 hour'")
    refused = admin.post(f"{HERE}/sync", agent="pi", direction="pull")
    assert refused.status_code == 502 and "The agent is offline" in words_of(refused.text)
    assert told(connected.get("/health"))["membridge"]["connected"] is True


def test_who_is_no_admin_looks_and_changes_nothing(connected: Replica, control_plane: Membridge) -> None:
    for node in ("one", "two"):
        control_plane.heartbeat(node)
    told(control_plane.post("/agents", {"name": "pi"}), 201)
    with signed_in(connected, Role.READER) as reader:
        page = reader.page(HERE)
        assert "two" in words_of(page) and "promote" not in page and "/sync" not in page
        assert reader.post(f"{HERE}/promote", node="two").status_code == 403
        assert reader.post(f"{HERE}/sync", agent="pi", direction="push").status_code == 403
        assert "/settings" not in page
    assert told(control_plane.get("/jobs")) == []


def test_a_membridge_that_is_away_is_a_word_and_not_an_error(start_replica: StartReplica) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for replica, words in (
        (start_replica(), "No Membridge is connected"),
        (start_replica(MEMBRIDGE_SERVER_URL=nobody), "Membridge cannot be reached"),
    ):
        with Visitor(replica.url) as visitor:
            for path in ("/membridge", HERE):
                assert words in words_of(visitor.page(path)), path


def test_a_key_that_is_refused_is_told(start_replica: StartReplica, control_plane: Membridge) -> None:
    replica = start_replica(MEMBRIDGE_SERVER_URL=control_plane.url, MEMBRIDGE_ADMIN_KEY="not the key at all")
    with Visitor(replica.url, **{"Accept-Language": "uk"}) as visitor:
        page = visitor.page("/membridge")
        assert "Membridge не приймає ключа цього сервера" in words_of(page) and "not the key" not in page


def test_many_who_look_are_one_who_asks(
    connected: Replica, control_plane: Membridge, admin: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bloom.upstream.looking.KEPT_SEC", 3600)
    control_plane.heartbeat("one")
    assert "two" not in words_of(admin.page(HERE))
    control_plane.heartbeat("two")
    assert "two" not in words_of(admin.page(HERE))
    admin.post(f"{HERE}/promote", on=HERE, node="two")  # who changes something sees it at once
    assert "Leads now two" in words_of(admin.page(HERE))
