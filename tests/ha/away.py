"""What the runtime stands on goes away under load, and comes back: object store, names, room on the disk, the right time."""

import os
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psycopg
from tests.blobs.blob_servers import S3Server, free_port
from tests.ha.fail_over import ending, submit
from tests.ha.patroni import Cluster
from tests.soak.fleet import Fleet, Postgres, wait_until
from tests.soak.storm import Tell
from tests.soak.traffic import Ledger, Traffic
from tests.worker.living import marked

from bloom.db.embedded import EmbeddedPostgres

HOUR = 3600
NAMES = "127.0.0.1 localhost database.test store.test membridge.test\n"
# A view of the files by which names are found that is this command's own. Without a name server the rest fails at once.
_OWN_NAMES = 'mount --bind "$0" /etc/hosts && mount --bind /dev/null /etc/resolv.conf && exec "$@"'


def store_environment(endpoint: str) -> dict[str, str]:
    """Settings of a runtime that keeps artifacts in the store at `endpoint`."""
    return {
        "MINIO_ENDPOINT": endpoint,
        "MINIO_ACCESS_KEY": "AKTEST",
        "MINIO_SECRET_KEY": "the secret of the store",
        "MINIO_ARTIFACT_BUCKET": "outputs",
    }


@contextmanager
def _under_load(
    directory: Path,
    *,
    database: Postgres | None = None,
    environment: dict[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    worker_host: str = "127.0.0.1",
) -> Generator[tuple[Fleet, Traffic]]:
    with (
        marked() as marker,
        Fleet(
            directory, marker, replicas=2, workers=4, database=database, environment=environment, prefix=prefix,
            worker_host=worker_host,
        ) as fleet,
    ):  # fmt: skip
        traffic = Traffic(fleet.addresses, [worker.name for worker in fleet.workers], 1)
        traffic.start()
        until_more(traffic.ledger, "the fleet", 10)
        yield fleet, traffic


def until_more(ledger: Ledger, what: str, count: int) -> float:
    """Return when so many more tasks were acknowledged and one more report was accepted; the seconds that it took."""
    began, created, completed = time.monotonic(), len(ledger.created), len(ledger.completed)
    wait_until(lambda: len(ledger.created) >= created + count and len(ledger.completed) > completed, what)
    return time.monotonic() - began


def _for(seconds: float) -> None:
    """Let the load go on."""
    time.sleep(seconds)


def run_store_away(directory: Path, tell: Tell, *, away_sec: float) -> list[str]:
    """The store is away for so long: everything goes on, and what was finished meanwhile is moved when it is back."""
    server = S3Server(free_port())
    server.start()
    with _under_load(directory, environment=store_environment(server.endpoint)) as (fleet, traffic):
        server.stop()
        done = len(traffic.ledger.created)
        _for(away_sec)
        accepted = len(traffic.ledger.created) - done
        ((waiting,),) = fleet.query("select count(*) from bloom.artifacts where moves_to_store")
        wrong = [] if accepted and waiting else ["nothing was accepted, or nothing finished, while the store was away"]
        server.start()
        back_at = time.monotonic()
        wait_until(
            lambda: fleet.query("select count(*) from bloom.artifacts where moves_to_store") == [(0,)], "the move"
        )
        tell(f"store away for {away_sec:.0f} s: {accepted} tasks accepted meanwhile, {waiting} outputs kept in PostgreSQL, "
             f"all of them in the store {time.monotonic() - back_at:.1f} s after it was back")  # fmt: skip
        wrong += ending(fleet, traffic, tell)
    server.stop()
    return wrong


def run_names_gone(directory: Path, tell: Tell, *, gone_sec: float) -> list[str]:
    """No name is found any more: that of the database, of the store, of Membridge, and for the workers that of the runtime."""
    hosts = directory / "hosts"
    hosts.write_text(NAMES)
    server = S3Server(free_port())
    server.start()
    cluster = Cluster(directory / "cluster")
    environment = {
        "DATABASE_URL": cluster.url.replace("127.0.0.1", "database.test"),
        "MEMBRIDGE_SERVER_URL": f"http://membridge.test:{free_port()}",
        "MEMBRIDGE_ADMIN_KEY": "the key of membridge",
        **store_environment(server.endpoint.replace("127.0.0.1", "store.test")),
    }
    prefix = ("unshare", "--mount", "sh", "-c", _OWN_NAMES, str(hosts))
    if os.geteuid() != 0:
        prefix = ("unshare", "--user", "--map-root-user", *prefix[1:])
    with _under_load(directory, database=cluster, environment=environment, prefix=prefix, worker_host="localhost") as (
        fleet,
        traffic,
    ):
        hosts.write_text("")
        kept = until_more(traffic.ledger, "those who are connected", 5)
        test = httpx.post(f"{fleet.addresses[0]}/api/runtime/test-connection", timeout=20, trust_env=False)
        # Who has no connection needs the name.
        fleet.query("select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'bloom%'")
        gone_at = time.monotonic()
        refused = 0
        while time.monotonic() < gone_at + gone_sec:
            answer = httpx.get(f"{fleet.addresses[0]}/api/runtime/health", timeout=5, trust_env=False)
            refused += answer.json()["status"] == "degraded"
            _for(1)
        wrong = [] if refused else ["the database was there without its name"]
        if test.status_code != 200 or test.json()["connected"]:
            wrong.append(f"the test of Membridge said {test.status_code} {test.text}")
        hosts.write_text(NAMES)
        back_at = time.monotonic()
        wait_until(lambda: submit(fleet, "probe") is not None, "the database")
        until_accepted = time.monotonic() - back_at
        wait_until(
            lambda: fleet.query("select count(*) from bloom.idempotency_keys where key = 'probe'") == [(1,)], "it"
        )
        ((task,),) = fleet.query("select task_id from bloom.idempotency_keys where key = 'probe'")
        traffic.ledger.created["probe"] = str(task)
        until_more(traffic.ledger, "the workers", 5)
        tell(f"names gone for {gone_sec + kept:.0f} s: connected ones went on; without connections 503; serving again "
             f"{until_accepted:.1f} s after names were back")  # fmt: skip
        wrong += ending(fleet, traffic, tell)
    server.stop()
    return wrong


@contextmanager
def _small_disk(place: Path, megabytes: int) -> Generator[Path]:
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def _full(disk: Path) -> Generator[None]:
    """There is no room on `disk` within."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        ballast.unlink()


def run_disk_full(directory: Path, tell: Tell, *, full_sec: float) -> list[str]:
    """A worker's disk is full, then PostgreSQL's. Root mounts small ones; nobody else can, and then this is not tried."""
    if os.geteuid() != 0:
        tell("disk full: not tried, only root can mount a small file system")
        return []
    with _small_disk(directory / "worker-0", 4) as spool, _small_disk(directory / "database", 400) as disk:
        settings = {"max_connections": 60, "max_wal_size": "64MB", "min_wal_size": "32MB"}
        postgres = EmbeddedPostgres(disk / "data", settings=settings)
        with _under_load(directory, database=postgres) as (fleet, traffic):
            with _full(spool):
                accepted = len(traffic.ledger.created)
                _for(full_sec)
                tell(f"disk of one worker of four full for {full_sec:.0f} s: {len(traffic.ledger.created) - accepted} tasks "
                     f"accepted meanwhile, the worker {'lives' if fleet.workers[0].pid else 'died'}")  # fmt: skip
            with _full(disk):
                before, accepted = traffic.ledger.answers["503"], len(traffic.ledger.created)
                _for(full_sec)
                refused, accepted = traffic.ledger.answers["503"] - before, len(traffic.ledger.created) - accepted
            fleet.heal()  # what `bloom up` does with its PostgreSQL, and systemd with another
            serving = until_more(traffic.ledger, "room on the disk", 3)
            tell(f"disk of PostgreSQL full for {full_sec:.0f} s: {refused} calls answered 503, {accepted} tasks accepted; "
                 f"going on {serving:.1f} s after there was room")  # fmt: skip
            wrong = [] if refused else ["the disk was not full"]
            return wrong + ending(fleet, traffic, tell)


def faketime() -> str | None:
    """The library that tells a process another time."""
    return next((str(file) for file in Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)


def run_clock_jumps(directory: Path, tell: Tell, *, each_sec: float) -> list[str]:
    """The clocks of replicas and workers jump an hour ahead, two back, and to the right time; PostgreSQL's own stays."""
    library = faketime()
    assert library is not None
    offset = directory / "offset"
    offset.write_text("+0")
    prefix = (
        "env", f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={offset}", "FAKETIME_CACHE_DURATION=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1",
    )  # fmt: skip
    with _under_load(directory, prefix=prefix) as (fleet, traffic):
        for hours in (1, -1, 0):
            ended = _leases_that_ended(fleet)
            offset.write_text(f"{hours * HOUR:+d}")
            accepted = len(traffic.ledger.created)
            _for(each_sec)
            until_more(traffic.ledger, "the fleet at another hour", 3)
            tell(f"clocks at {hours:+d} h: {len(traffic.ledger.created) - accepted} tasks accepted, "
                 f"{_leases_that_ended(fleet) - ended} leases ended unrenewed")  # fmt: skip
        return ending(fleet, traffic, tell)


def _leases_that_ended(fleet: Fleet) -> int:
    with suppress(psycopg.OperationalError):
        ((count,),) = fleet.query("select count(*) from bloom.leases where status = 'expired'")
        return int(str(count))
    return 0
