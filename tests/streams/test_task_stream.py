"""The stream of one task: all its events, in order, however often its reader comes back and to whichever replica."""

from itertools import cycle

from tests.real_runtime import Replica, StartReplica, in_background
from tests.streams.sse_reading import reading

from bloom.base.ids import LeaseId, TaskId
from bloom.tasks.schemas import NewEvent
from bloom.tasks.service.holding import EventsCall

EVENTS = 100_000
BATCH = 1_000
CONNECTIONS = 11


def test_a_hundred_thousand_events_arrive_complete_and_in_order_at_a_reader_that_reconnects_ten_times(
    runtime: Replica, start_replica: StartReplica
) -> None:
    runtime.register()
    task, lease = runtime.leased()
    fronts = cycle([runtime, start_replica()])

    async def append(first: int) -> None:
        events = [NewEvent(seq=seq, type="text", data={"text": f"piece {seq}"}) for seq in range(first, first + BATCH)]
        await runtime.services.holding.append_events(EventsCall(TaskId(task["id"]), LeaseId(lease["id"]), events))

    def write() -> None:
        for first in range(1, EVENTS + 1, BATCH):
            runtime.run(append(first))
        runtime.complete(task["id"], lease["id"])

    heard: list[tuple[int, str]] = []
    after: str | None = None
    path = f"/llm-tasks/{task['id']}/stream"
    with in_background(write) as written:
        for connection in range(1, CONNECTIONS + 1):
            enough = EVENTS * connection // CONNECTIONS
            with reading(next(fronts), path, after) as reader:
                last = reader.until(
                    lambda event, enough=enough: (
                        event.event == "end" or (event.event == "run" and int(event.id) >= enough)
                    )
                )
            runs = [event for event in last if event.event == "run"]
            heard += [(event.data["seq"], event.data["data"]["text"]) for event in runs]
            after = runs[-1].id
        written.result()
    with reading(next(fronts), path, after) as reader:
        assert [event.event for event in reader.until(lambda event: event.event == "end")] == ["end"]
    assert heard == [(seq, f"piece {seq}") for seq in range(1, EVENTS + 1)]
