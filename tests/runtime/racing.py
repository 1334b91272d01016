"""Two things at once, forced into each order by a third party that holds what the first one needs to end."""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import httpx
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, told

Call = Callable[[Replica], Any]

AUDIT: LiteralString = "lock table bloom.audit_log in share mode"
"""Who changes a state stops at its audit entry, its rows locked and changed."""
LEASES: LiteralString = "lock table bloom.leases in share row exclusive mode"
"""Who renews a lease stops at the lease, its task locked."""
EVENTS: LiteralString = "lock table bloom.task_events in share mode"
"""Who appends events stops there, the task locked."""

WORKERS: LiteralString = "select from bloom.workers for update"
"""Who changes a worker waits for it, and whoever comes later waits behind."""


@dataclass
class Race:
    """Two replicas, a worker of four slots, and a task that it holds."""

    first: Replica
    second: Replica
    database: FreshDatabase
    task_id: str = ""
    lease_id: str = ""

    def hold_another(self, **fields: Any) -> None:
        """From now on the race is about another task that the worker holds."""
        task, lease = self.first.leased(**fields)
        self.task_id, self.lease_id = task["id"], lease["id"]

    def in_order(self, first: Call, second: Call, *, gate: LiteralString = AUDIT) -> tuple[Any, Any]:
        """What both got: `first` has its locks and cannot end before `second` waits for them."""
        with later(lambda: first(self.first)) as one, later(lambda: second(self.second)) as two:
            with self.database.connect(autocommit=False) as keeper:
                keeper.execute(gate)
                one.start()
                self.database.wait_until_blocked(1)
                two.start()
                self.database.wait_until_blocked(2)
            return one.result(), two.result()

    def within(self, first: Call, second: Call, *, gate: LiteralString = AUDIT) -> tuple[Any, Any]:
        """What both got: `second` begins and ends, waiting for nobody, while `first` has its locks and cannot end."""
        with later(lambda: first(self.first)) as one:
            with self.database.connect(autocommit=False) as keeper:
                keeper.execute(gate)
                one.start()
                self.database.wait_until_blocked(1)
                got = second(self.second)
            return one.result(), got

    def complete(self, api: Replica) -> httpx.Response:
        return api.complete(self.task_id, self.lease_id)

    def cancel(self, api: Replica) -> httpx.Response:
        return api.post(f"/llm-tasks/{self.task_id}/cancel")

    def requeue(self, api: Replica) -> httpx.Response:
        return api.post(f"/llm-tasks/{self.task_id}/requeue")

    def fail(self, api: Replica) -> httpx.Response:
        return api.fail(self.task_id, self.lease_id)

    def extend(self, api: Replica) -> str:
        """The outcome."""
        body = {"leases": [{"lease_id": self.lease_id}]}
        return told(api.post("/workers/worker/extend", body))["leases"][0]["outcome"]

    def tell_events(self, api: Replica) -> httpx.Response:
        events = [{"seq": 1, "type": "text"}]
        return api.post(f"/llm-tasks/{self.task_id}/events", {"lease_id": self.lease_id, "events": events})

    def reap(self, api: Replica) -> list[str]:
        return api.reap()

    def remove_worker(self, api: Replica) -> httpx.Response:
        return api.delete("/workers/worker")

    def status(self) -> str:
        return self.first.task(self.task_id)["status"]


class Later:
    """A call that a thread makes on command."""

    def __init__(self, pool: ThreadPoolExecutor, call: Callable[[], Any]) -> None:
        self._pool = pool
        self._call = call
        self._made: Future[Any] | None = None

    def start(self) -> None:
        self._made = self._pool.submit(self._call)

    def result(self) -> Any:
        assert self._made is not None
        return self._made.result(10)


@contextmanager
def later(call: Callable[[], Any]) -> Generator[Later]:
    """`call`, to be started; at the end it has been waited for."""
    with ThreadPoolExecutor(1) as pool:
        yield Later(pool, call)
