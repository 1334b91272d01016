"""Many workers that wait: who is woken, and what an idle fleet costs."""

import asyncio
import uuid
from collections.abc import Callable, Sequence

import pytest
from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica

from bloom.base.ids import WorkerId
from bloom.db.hub import QUEUE
from bloom.tasks.service.granting import ClaimRequest, Granted
from bloom.tasks.service.waiting import FEW, ClaimWatch, WaitingClaim, WaitingClaims, choose
from bloom.tasks.store.leases import Wanted
from bloom.workers.schemas import RegisterWorker

FLEET = FEW + 16
PATIENCE_SEC = 20

ONE, TWO, GPU, NEW = "one", "two", "gpu", "new"


def _claims(*labels_of: tuple[str, set[str] | None]) -> WaitingClaims:
    claims = WaitingClaims()
    for name, labels in labels_of:
        claim = WaitingClaim(object.__new__(ClaimWatch), WorkerId(name))
        claims.add(claim)
        if labels is not None:
            claims.tell_labels(claim, frozenset(labels))
    return claims


def _wanted(labels: set[str], last: str | None = None) -> Wanted:
    return Wanted(frozenset(labels), None if last is None else WorkerId(last))


NOTHING: list[Wanted] = []
NOBODY: set[str] = set()


@pytest.mark.parametrize(
    ("wanted", "woken"),
    [
        (NOTHING, NOBODY),
        ([_wanted(set())], {ONE}),
        ([_wanted(set())] * 2, {ONE, TWO}),
        ([_wanted(set())] * 3, {ONE, TWO, GPU}),
        ([_wanted(set())] * 9, {NEW, ONE, TWO, GPU}),
        ([_wanted({"gpu"})], {GPU}),
        ([_wanted({"gpu"})] * 9, {NEW, GPU}),
        ([_wanted({"nobody has this"})], {NEW}),
        ([_wanted(set(), last=TWO)], {ONE, TWO}),
        ([_wanted(set(), last="elsewhere")], {ONE}),
        ([_wanted({"gpu"}), _wanted(set()), _wanted(set())], {GPU, ONE, TWO}),
        ([_wanted({"arm"}), _wanted({"arm"}), _wanted(set())], {TWO, GPU, ONE}),
    ],
)
def test_as_many_are_woken_as_could_get_a_task_and_whoever_is_not_known_when_that_is_not_enough(
    wanted: Sequence[Wanted], woken: set[str]
) -> None:
    claims = _claims((ONE, set()), (TWO, {"arm"}), (GPU, {"gpu", "arm"}), (NEW, None))
    assert {claim.worker_id for claim in choose(wanted, claims)} == woken


def test_who_left_is_not_meant_and_a_worker_that_claims_twice_stays_known() -> None:
    claims = _claims((ONE, set()), (TWO, set()), (ONE, set()))
    first, second, again = claims
    assert len(claims) == 3 and claims.of_worker(WorkerId(ONE)) is again
    claims.remove(first)
    assert claims.of_worker(WorkerId(ONE)) is again and choose([_wanted(set())], claims) == {second}
    claims.tell_labels(second, frozenset({"gpu"}))
    assert choose([_wanted({"gpu"})], claims) == {second}
    claims.remove(second)
    claims.remove(again)
    assert not list(claims) and claims.of_worker(WorkerId(ONE)) is None and choose([_wanted(set())], claims) == set()


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SEC):
        while not holds():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


class Fleet:
    """Workers whose claims wait at one replica."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.granting = replica.services.granting
        self.looks = 0

    async def claim(self, name: str) -> Sequence[Granted]:
        return await self.granting.claim(ClaimRequest(WorkerId(name), uuid.uuid4().hex, 1, 300, 30.0))

    async def wait(self) -> "list[asyncio.Task[Sequence[Granted]]]":
        """All of them claim, and have found nothing."""
        for n in range(FLEET):
            await self.replica.services.workers.register(
                RegisterWorker.model_validate({"name": f"w{n}", "capabilities": {"labels": ["odd"] if n % 2 else []}}),
                actor="test",
            )
        claims = [asyncio.create_task(self.claim(f"w{n}")) for n in range(FLEET)]
        watch = self.granting.watch
        await _until(lambda: sum(claim.labels is not None for claim in watch.claims) == FLEET)
        self.replica.services.hub.wake(QUEUE)
        await _until(lambda: watch.quiet)
        return claims

    def count_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flush = self.granting._claims._flush  # pyright: ignore[reportPrivateUsage]

        async def counting(items: Sequence[ClaimRequest]) -> object:
            self.looks += len(items)
            return await flush(items)

        monkeypatch.setattr(self.granting._claims, "_flush", counting)  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def fleet(start_replica: StartReplica, database: FreshDatabase) -> Fleet:
    replica = start_replica()
    replica.until_listening()
    return Fleet(replica)


def test_a_task_wakes_one_of_a_large_idle_fleet(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        claims = await fleet.wait()
        fleet.count_looks(monkeypatch)
        for labels in ([], ["odd"]):
            task = await asyncio.to_thread(fleet.replica.create, labels=labels)
            async with asyncio.timeout(PATIENCE_SEC):
                done, pending = await asyncio.wait(claims, return_when=asyncio.FIRST_COMPLETED)
            (granted,) = done.pop().result()
            assert granted.task.id == task["id"] and not done
            claims = list(pending)
        assert 2 <= fleet.looks < 8, "the fleet was woken"
        for claim in claims:
            claim.cancel()
        await asyncio.gather(*claims, return_exceptions=True)

    fleet.replica.run(scenario())


def test_claims_on_a_quiet_queue_look_together(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        waiting = await fleet.wait()
        fleet.count_looks(monkeypatch)
        batches: list[int] = []
        flush = fleet.granting._claims._flush  # pyright: ignore[reportPrivateUsage]

        async def noting(items: Sequence[ClaimRequest]) -> object:
            batches.append(len(items))
            return await flush(items)

        monkeypatch.setattr(fleet.granting._claims, "_flush", noting)  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(
            ClaimWatch, "quiet", True
        )  # it was; late news of the registrations may end that for a moment
        more = [asyncio.create_task(fleet.claim(f"w{n}")) for n in range(10)]
        await _until(lambda: sum(batches) == 10)
        assert len(batches) <= 2, "each looked by itself"
        for claim in (*waiting, *more):
            claim.cancel()
        await asyncio.gather(*waiting, *more, return_exceptions=True)

    fleet.replica.run(scenario())


def test_all_tasks_that_come_at_once_find_their_workers(fleet: Fleet) -> None:
    async def scenario() -> None:
        claims = await fleet.wait()
        bodies = [{"context_id": f"c{n}", "agent_slug": "a", "prompt": "p"} for n in range(FLEET)]
        created = await asyncio.to_thread(lambda: fleet.replica.post("/llm-tasks/batch", {"tasks": bodies}).json())
        assert all(item["status"] == 201 for item in created["results"])
        async with asyncio.timeout(PATIENCE_SEC):
            got = await asyncio.gather(*claims)
        assert len({granted.task.id for granteds in got for granted in granteds}) == FLEET

    fleet.replica.run(scenario())
