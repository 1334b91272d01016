"""What /stats says is what the tables say, at any moment, and costs the same however many tasks there are."""

from typing import Any

from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica, at_once, told


def counted(database: FreshDatabase) -> dict[str, Any]:
    """The answer of /stats, counted in the tables."""
    states = ("queued", "leased", "running", "completed", "failed", "dead", "cancelled")
    found = {row["status"]: row["n"] for row in database.rows("select status, count(*) n from bloom.tasks group by 1")}
    return {
        "tasks": {"total": sum(found.values()), "by_status": {state: found.get(state, 0) for state in states}},
        "leases": database.row("""select count(*) total, count(*) filter (where status = 'active') active
                                  from bloom.leases"""),
        "workers": database.row("""select count(*) total, count(*) filter (where status = 'online') online
                                   from bloom.workers"""),
    }  # fmt: skip


def agree(api: Replica, database: FreshDatabase) -> dict[str, int]:
    """Fail unless /stats says what the tables say; how many tasks there are of each state."""
    said = told(api.get("/stats"))
    assert said == counted(database)
    return said["tasks"]["by_status"]


def test_each_change_of_a_task_is_in_the_counts(runtime: Replica, database: FreshDatabase) -> None:
    agree(runtime, database)
    runtime.register(slots=8)
    runtime.register("other", slots=8)

    def step(**expected: int) -> None:
        found = agree(runtime, database)
        assert {state: n for state, n in found.items() if n} == expected

    done, lease = runtime.leased()
    step(leased=1)
    told(runtime.heartbeat(done["id"], lease["id"]))
    told(runtime.heartbeat(done["id"], lease["id"]))
    step(running=1)
    told(runtime.complete(done["id"], lease["id"]))
    step(completed=1)
    told(runtime.complete(done["id"], lease["id"]))
    step(completed=1)

    again, lease = runtime.leased(max_attempts=2)
    told(runtime.fail(again["id"], lease["id"], retryable=True, retry_after_sec=0))
    step(completed=1, queued=1)
    (claimed,) = runtime.claim("worker", "one")
    database.expire(claimed["lease"]["id"])
    assert runtime.reap() == [again["id"]]
    step(completed=1, dead=1)
    told(runtime.post(f"/llm-tasks/{again['id']}/requeue"))
    step(completed=1, queued=1)
    told(runtime.post(f"/llm-tasks/{again['id']}/cancel"))
    step(completed=1, cancelled=1)
    told(runtime.post(f"/llm-tasks/{again['id']}/requeue"))

    (claimed,) = runtime.claim("other", "two")
    told(runtime.fail(again["id"], claimed["lease"]["id"]))
    step(completed=1, failed=1)
    told(runtime.post(f"/llm-tasks/{again['id']}/requeue"))
    (claimed,) = runtime.claim("other", "three")
    told(runtime.heartbeat(again["id"]))
    stopped, _ = runtime.leased("other")
    told(runtime.post(f"/llm-tasks/{stopped['id']}/cancel"))
    step(completed=1, running=1, leased=1)
    told(runtime.delete("/workers/other"))
    step(completed=1, queued=1, cancelled=1)


def test_counts_are_right_while_many_change_them_and_others_fold_them(
    start_replica: StartReplica, database: FreshDatabase
) -> None:
    replicas = [start_replica() for _ in range(2)]
    for replica in replicas:
        replica.run(replica.services.tasks.tidy_counts())

    def work(number: int) -> None:
        api = replicas[number % 2]
        for _ in range(5):
            api.create()
            api.run(api.services.tasks.tidy_counts())
            assert told(api.get("/stats"))["tasks"]["total"] > 0

    at_once(6, work)
    for replica in replicas:
        assert agree(replica, database)["queued"] == 30
    replicas[0].run(replicas[0].services.tasks.tidy_counts())
    assert database.value("select count(*) from bloom.counts") == 1
    agree(replicas[0], database)


def test_what_was_changed_without_a_word_is_right_after_the_count_of_each_day(
    runtime: Replica, database: FreshDatabase
) -> None:
    runtime.run(runtime.services.tasks.tidy_counts())
    runtime.create()
    database.edit("delete from bloom.tasks")
    runtime.run(runtime.services.tasks.tidy_counts())
    assert told(runtime.get("/stats"))["tasks"]["total"] == 1
    database.edit("update bloom.counts set counted_at = counted_at - interval '1 day'")
    runtime.run(runtime.services.tasks.tidy_counts())
    agree(runtime, database)
