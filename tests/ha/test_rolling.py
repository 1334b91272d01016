"""The short form of the rolling restart (`make test-ha` is the long one)."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.deploy.nginx_front import NGINX, Front
from tests.ha.rolling import OwnReplica, roll
from tests.real_postgres import FreshDatabase
from tests.runtime.invariants import check_invariants


@pytest.mark.skipif(NGINX is None, reason="nginx is missing (Debian: apt install nginx-light)")
@pytest.mark.timeout(180)
def test_one_of_two_replicas_behind_nginx_is_restarted_under_load_and_no_request_fails(
    database: FreshDatabase, tmp_path: Path
) -> None:
    # As deploy/nginx/bloom.conf has it, in less time.
    replicas = [
        OwnReplica(f"replica-{n}", database.url, tmp_path / f"{n}.log", BLOOM_DRAIN_SEC="3.5") for n in range(2)
    ]
    with ExitStack() as stack:
        for replica in replicas:
            replica.start()
            stack.callback(replica.end)
        for replica in replicas:
            replica.until_ready()
        front = Front(tmp_path, [replica.url for replica in replicas], keepalive_sec=1)
        stack.callback(front.stop)
        callers, _ = roll(front, replicas[:1], rounds=1)
    assert callers.wrong == []
    there = {row["id"] for row in database.rows("select id from bloom.tasks")}
    assert there == callers.created
    assert callers.answers["stream 200"] >= 1  # one more, where the stream was with the replica that went
    check_invariants(database)
