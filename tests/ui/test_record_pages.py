"""The pages of artifacts and of the audit log, without a script."""

import json
from collections.abc import Generator
from datetime import UTC, datetime, timedelta

import pytest
from tests.real_postgres import PostgresServer
from tests.real_runtime import Replica, StartReplica, told
from visitor import Visitor, words_of

HOSTILE = "<script>alert(1)</script><img src=https://evil.example/x> ‮ \x1b[31m & 'quoted' \"too\""


@pytest.fixture(scope="module")
def replica(postgres_server: PostgresServer) -> Generator[Replica]:
    with postgres_server.database() as database, Replica(database.url) as replica:
        replica.register("worker", slots=32)
        yield replica


@pytest.fixture
def visitor(replica: Replica) -> Generator[Visitor]:
    with Visitor(replica.url) as visitor:
        yield visitor


def artifact_of(replica: Replica, output: str, **fields: object) -> str:
    task, lease = replica.leased("worker")
    return told(replica.complete(task["id"], lease["id"], output=output, **fields))["artifact"]["id"]


def test_an_artifact_is_listed_read_and_saved(replica: Replica, visitor: Visitor) -> None:
    artifact = artifact_of(replica, HOSTILE, artifact_tags=["<b>tag</b>"])
    task_id = told(replica.get(f"/artifacts/{artifact}"))["task_id"]
    assert f"/artifacts/{artifact}" in visitor.page("/artifacts", task_id=task_id)
    assert f"/artifacts/{artifact}" not in visitor.page("/artifacts", task_id="another")
    page = visitor.page(f"/artifacts/{artifact}")
    assert "<script>alert" not in page and "<img src=https" not in page and "<b>tag" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    saved = visitor.get(f"/artifacts/{artifact}/download")
    assert saved.content == HOSTILE.encode()
    assert saved.headers["content-disposition"] == f'attachment; filename="{artifact}.txt"'
    assert saved.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in saved.headers["content-security-policy"]


def test_a_long_artifact_is_shown_in_part_and_saved_whole(replica: Replica, visitor: Visitor) -> None:
    text = "ж" * (2 * 1024 * 1024)  # in pieces in the database, of two bytes a character
    artifact = artifact_of(replica, text)
    page = visitor.page(f"/artifacts/{artifact}")
    assert "Only the first 64 KiB are shown" in words_of(page)
    assert page.count("ж") == 32 * 1024 and "�" not in page
    assert visitor.get(f"/artifacts/{artifact}/download").text == text


def test_an_artifact_that_is_not_there_is_an_error_page(visitor: Visitor) -> None:
    for path in ("/artifacts/nothing", "/artifacts/nothing/download"):
        answer = visitor.get(path)
        assert answer.status_code == 404 and "artifact_not_found" in answer.text and "<main" in answer.text


def test_lists_of_artifacts_go_on_to_the_next_page(replica: Replica, visitor: Visitor) -> None:
    task = replica.create()
    made = [artifact_of(replica, f"number {n}") for n in range(51)]
    first = visitor.page("/artifacts")
    assert f"/artifacts/{made[50]}" in first and f"/artifacts/{made[0]}" not in first
    link = first.split('rel="next" href="')[1].split('"')[0]
    assert f"/artifacts/{made[0]}" in visitor.page(link)
    assert "No artifacts here" in words_of(visitor.page("/artifacts", task_id=task["id"]))


def test_what_is_in_a_store_that_is_away_says_so(
    start_replica: StartReplica, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("store")
    replica = start_replica(BLOOM_BLOB_DIR=str(folder))
    replica.register("worker")
    artifact = artifact_of(replica, "kept elsewhere")
    with Visitor(replica.url) as visitor:
        assert "kept elsewhere" in visitor.page(f"/artifacts/{artifact}")
        for file in folder.rglob("*"):
            if file.is_file():
                file.unlink()
        page = visitor.page(f"/artifacts/{artifact}")
        assert "does not answer" in words_of(page) and "SHA-256" in page
        assert visitor.get(f"/artifacts/{artifact}/download").status_code == 502


def test_the_audit_log_is_filtered(replica: Replica, visitor: Visitor) -> None:
    replica.register("audited <i>worker<i>")
    page = visitor.page("/audit", entity_type="worker", entity_id="audited <i>worker<i>")
    assert "worker_registered" in page.split("</form>")[-1] and "<i>worker" not in page
    assert visitor.page("/audit", action="worker_removed").count('<tr id="entry-') == 0
    assert visitor.page("/audit", actor="nobody").count('<tr id="entry-') == 0
    ahead = (datetime.now(UTC) + timedelta(days=2)).strftime("%Y-%m-%dT%H:%M")
    assert "No entry" in words_of(visitor.page("/audit", since=ahead))
    assert "worker_registered" in visitor.page("/audit", until=ahead, action="worker_registered").split("</form>")[-1]


def test_times_are_of_the_zone_that_the_script_tells(replica: Replica, visitor: Visitor) -> None:
    replica.register("in a zone")
    entry = next(e for e in told(replica.get("/audit", limit=1000)) if e["entity_id"] == "in a zone")
    moment = datetime.fromtimestamp(entry["timestamp"] / 1000, UTC)
    asked = {"entity_id": "in a zone", "since": (moment + timedelta(hours=5, seconds=-5)).strftime("%Y-%m-%dT%H:%M:%S")}
    assert visitor.page("/audit", **asked, since_offset="-300").count('<tr id="entry-') == 1  # five hours ahead of UTC
    assert visitor.page("/audit", **asked).count('<tr id="entry-') == 0
    assert visitor.page("/audit", **asked, since_offset="nonsense").count('<tr id="entry-') == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("action", "nonsense"),
        ("since", "yesterday"),
        ("until", "9999-99-99T00:00"),
        ("actor", "\x00"),
        ("since", "0001-01-01T00:00+14:00"),
    ],
)
def test_a_bad_filter_is_told_at_its_field_and_kept(visitor: Visitor, field: str, value: str) -> None:
    answer = visitor.get("/audit", **{field: value, "entity_id": "kept"})
    assert answer.status_code == 400 and f'id="{field}-problem"' in answer.text and 'value="kept"' in answer.text
    assert visitor.get("/audit/download", **{field: value}).status_code == 400


def test_the_audit_log_is_saved_as_lines(replica: Replica, visitor: Visitor) -> None:
    for n in range(3):
        replica.register(f"line {n}")
    entries = told(replica.get("/audit", limit=1000))
    saved = visitor.get("/audit/download")
    assert [json.loads(line) for line in saved.text.splitlines()] == entries
    assert saved.headers["content-disposition"] == 'attachment; filename="audit.jsonl"'
    only = visitor.get("/audit/download", action="worker_registered", entity_id="line 1")
    assert [json.loads(line)["entity_id"] for line in only.text.splitlines()] == ["line 1"]


def test_saving_reads_on_page_by_page(replica: Replica, visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloom.ui.audit.PAGE", 2)
    for n in range(5):
        replica.register(f"paged {n}")
    saved = visitor.get("/audit/download", entity_type="worker")
    ids = [json.loads(line)["entity_id"] for line in saved.text.splitlines()]
    assert ids[:5] == [f"paged {n}" for n in (4, 3, 2, 1, 0)] and len(ids) == len(set(ids))
