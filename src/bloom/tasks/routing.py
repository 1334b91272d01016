"""The one routing rule: which worker gets which task. Pure; the lease call and the claim both use it."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from bloom.base.ids import TaskId, WorkerId


@dataclass(slots=True)
class Seat:
    """The free slots of one worker while tasks are being handed out; `wait_sec`: how long it would still wait for one."""

    worker_id: WorkerId
    labels: frozenset[str]
    free: int
    wait_sec: float = 0.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A task that could be leased now. `last_worker_id` last ran its context."""

    task_id: TaskId
    labels: Collection[str]
    last_worker_id: WorkerId | None
    rank: tuple[int, int] = (0, 0)
    concurrency_key: str | None = None


def choose(candidate: Candidate, seats: Iterable[Seat]) -> Seat | None:
    """The seat for one task: of those with a free slot and every label, the one that last ran its context, then the one with
    most free slots (wire contract, "Router"), then the one with fewest labels to spare, then the one that has waited so long
    that it would wait least.
    """
    able = [seat for seat in seats if seat.free > 0 and seat.labels.issuperset(candidate.labels)]
    if not able:
        return None
    return min(
        able,
        key=lambda seat: (
            seat.worker_id != candidate.last_worker_id,
            -seat.free,
            len(seat.labels),
            seat.wait_sec,
            seat.worker_id,
        ),
    )


def assign(candidates: Sequence[Candidate], seats: Sequence[Seat]) -> list[tuple[Candidate, Seat]]:
    """Seat as many candidates as possible and take up the seats' slots. Of several with one concurrency key only the first
    is seated. Those that ask for most labels choose first, so that a plain task does not take the one able seat; the
    candidates are already the first of the queue, so this never lets a later task overtake.
    """
    seated: list[tuple[Candidate, Seat]] = []
    keys: set[str] = set()
    for candidate in sorted(candidates, key=lambda candidate: (-len(candidate.labels), candidate.rank)):
        key = candidate.concurrency_key
        if key is not None and key in keys:
            continue
        seat = choose(candidate, seats)
        if seat is None:
            continue
        seat.free -= 1
        if key is not None:
            keys.add(key)
        seated.append((candidate, seat))
    return seated
