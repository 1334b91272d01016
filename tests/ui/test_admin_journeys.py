"""What an administrator does, in a real browser."""

import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from browsers import OpenPage, accessibility_problems
from playwright.sync_api import Page, expect
from tests.real_membridge import KEY, Membridge
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica, told
from visitor import ADMIN_KEY

from bloom.membridge.model import canonical_id_of

HERE = f"/membridge/{canonical_id_of('project')}"


@pytest.fixture
def keyed(start_replica: StartReplica) -> Replica:
    replica = start_replica(RUNTIME_API_KEY=ADMIN_KEY)
    replica.until_listening()
    return replica


@pytest.fixture
def control_plane(database: FreshDatabase) -> Generator[Membridge]:
    with Membridge(database.url) as service:
        for node in ("one", "two"):
            service.heartbeat(node, obs_count=12)
        service.select("one")
        told(service.post("/agents", {"name": "pi"}), 201)
        yield service


def sign_in(page: Page, url: str, key: str = ADMIN_KEY) -> None:
    page.goto(url)
    page.get_by_label("Key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def test_a_person_signs_in_and_out(keyed: Replica, page: Page) -> None:
    sign_in(page, f"{keyed.url}/leases?status=all", "a wrong key")
    expect(page.get_by_role("alert")).to_contain_text("This key is not known")
    expect(page.get_by_label("Key")).to_be_focused()
    page.get_by_label("Key").fill(ADMIN_KEY)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Leases")
    assert page.url == f"{keyed.url}/leases?status=all"
    assert "bloom_session" not in page.evaluate("document.cookie")
    page.get_by_role("button", name="Українська").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Оренди")
    page.get_by_role("button", name="Вийти").click()
    expect(page.get_by_text("Ви вийшли.")).to_be_visible()
    page.goto(keyed.url)
    expect(page.get_by_label("Ключ")).to_be_visible()


def test_a_person_adds_a_worker_and_drains_it(keyed: Replica, page: Page, tmp_path: Path) -> None:
    sign_in(page, f"{keyed.url}/workers")
    expect(page.get_by_text("No worker yet")).to_be_visible()
    page.get_by_role("link", name="Add a worker").first.click()
    page.get_by_label("Name of the worker").fill("pi4")
    page.get_by_role("button", name="Make the command").click()
    command = page.locator("#command").inner_text().split()
    assert command[:3] == [".venv/bin/bloom", "worker", "join"]
    page.goto(f"{keyed.url}/workers")
    expect(page.locator("#live-state")).to_have_text("live")
    environment = {"HOME": str(tmp_path), "PATH": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    bloom = [sys.executable, "-P", "-m", "bloom"]
    joined = [*bloom, *command[1:], "--no-service"]
    subprocess.run(joined, env=environment, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    with (tmp_path / "worker.log").open("wb") as log:
        daemon = subprocess.Popen([*bloom, "worker"], env=environment, cwd=tmp_path, stdout=log, stderr=log)
    try:
        page.get_by_role("row", name="pi4 online").get_by_role("link", name="pi4").click()
        page.get_by_role("button", name="Drain").click()
        expect(page.get_by_text("nothing runs there any more")).to_be_visible()
        assert told(keyed.get("/workers/pi4"))["draining"] is True
        told(keyed.post("/workers/pi4/resume"))
        expect(page.get_by_role("button", name="Drain")).to_be_visible()  # by itself
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0
    page.get_by_role("link", name="Remove…").click()
    expect(page.get_by_text("Nothing runs there")).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("The worker is removed")).to_be_visible()
    assert keyed.get("/workers/pi4").status_code == 404


def test_a_person_connects_membridge_and_promotes_a_node(keyed: Replica, control_plane: Membridge, page: Page) -> None:
    sign_in(page, f"{keyed.url}/membridge")
    expect(page.get_by_text("No Membridge is connected")).to_be_visible()
    page.get_by_role("main").get_by_role("link", name="To the settings").click()
    page.get_by_label("Address").fill(control_plane.url)
    page.get_by_label("Admin key").fill(KEY)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("Saved.")).to_be_visible()
    page.get_by_role("button", name="Test the saved connection").click()
    expect(page.get_by_text("It works: Membridge answers")).to_be_visible()
    assert KEY not in page.content()
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Membridge").click()
    page.get_by_role("link", name="project").click()
    page.get_by_role("row", name="two").get_by_role("link", name="Make it the leader").click()
    expect(page.get_by_text("one leads now and loses its lease at once")).to_be_visible()
    page.get_by_role("button", name="Make it the leader").click()
    expect(page.get_by_text("The node leads the project now.")).to_be_visible()
    assert control_plane.leadership()["lease"]["primary_node_id"] == "two"
    page.get_by_role("button", name="Push").click()
    expect(page.get_by_role("row", name="push pi")).to_contain_text("queued")
    (job,) = told(control_plane.post("/agents/pi/commands"))["jobs"]
    told(control_plane.post(f"/agents/pi/jobs/{job['id']}/report", {"status": "running", "progress": 0.5}))
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "0.5")  # by itself
    told(control_plane.post(f"/agents/pi/jobs/{job['id']}/report", {"status": "done", "detail": "pushed"}))
    expect(page.get_by_role("row", name="push pi")).to_contain_text("done")


def test_a_person_creates_a_key_and_revokes_it(keyed: Replica, page: Page, open_page: OpenPage) -> None:
    sign_in(page, f"{keyed.url}/settings")
    new_key = page.get_by_role("form", name="A new key")
    new_key.get_by_label("Name").fill("for a friend")
    new_key.get_by_label("Role").select_option(label="reader")
    page.get_by_role("button", name="Create the key").click()
    key = page.locator("#key").inner_text().strip()
    friend = open_page(java_script=False)
    sign_in(friend, f"{keyed.url}/workers", key)
    expect(friend.get_by_role("heading", level=1)).to_have_text("Workers")
    expect(friend.get_by_role("link", name="Settings")).to_have_count(0)
    page.get_by_role("link", name="To the settings").click()
    assert key not in page.content()
    page.get_by_role("link", name="Revoke… for a friend").click()
    expect(page.get_by_text("This cannot be undone")).to_be_visible()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("The key is revoked.")).to_be_visible()
    friend.reload()
    expect(friend.get_by_label("Key")).to_be_visible()


def test_without_scripts_a_worker_is_drained(runtime: Replica, open_page: OpenPage) -> None:
    runtime.register("pi4")
    page = open_page(java_script=False)
    page.goto(f"{runtime.url}/workers/pi4")
    page.get_by_role("button", name="Drain").click()
    expect(page.get_by_text("The worker takes nothing new")).to_be_visible()
    assert told(runtime.get("/workers/pi4"))["draining"] is True


def test_axe_finds_nothing_wrong_on_any_page(start_replica: StartReplica, control_plane: Membridge, page: Page) -> None:
    replica = start_replica(MEMBRIDGE_SERVER_URL=control_plane.url, MEMBRIDGE_ADMIN_KEY=KEY)
    replica.register("pi4", slots=2, capabilities={"labels": ["arm"]})
    task, lease = replica.leased("pi4")
    artifact = told(replica.complete(task["id"], lease["id"]))["artifact"]["id"]
    replica.leased("pi4")
    key = told(replica.post("/keys", {"name": "a key", "role": "reader"}), 201)["id"]
    told(control_plane.post("/sync/push", {"project": "project", "agent": "pi"}))
    problems: dict[str, list[str]] = {}
    for path in (
        *("/workers", "/workers/pi4", "/workers/pi4/remove", "/add-worker"),
        *("/artifacts", f"/artifacts/{artifact}", "/leases?status=all", "/audit", "/audit?since=nonsense"),
        *("/membridge", HERE, f"{HERE}/promote?node=two", "/settings", f"/settings/keys/{key}/revoke", "/nowhere"),
    ):
        page.goto(replica.url + path)
        if found := accessibility_problems(page):
            problems[path] = found
    assert not problems, problems


@pytest.mark.parametrize("width", [360, 2560])
def test_pages_fit_narrow_and_wide_screens(runtime: Replica, open_page: OpenPage, width: int) -> None:
    runtime.register("a-worker-with-a-long-name-" + "x" * 60, capabilities={"labels": ["one", "two"]})
    runtime.leased("a-worker-with-a-long-name-" + "x" * 60)
    page = open_page(viewport={"width": width, "height": 800}, locale="uk")
    for path in (
        "/workers",
        f"/workers/a-worker-with-a-long-name-{'x' * 60}",
        "/leases",
        "/audit",
        "/settings",
        "/membridge",
    ):
        page.goto(runtime.url + path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
