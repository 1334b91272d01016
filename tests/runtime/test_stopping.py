"""A runtime that is told to stop: what waits there ends well, and whoever asks learns that it goes."""

import asyncio
from contextlib import ExitStack

from tests.real_postgres import FreshDatabase
from tests.real_runtime import Replica, StartReplica, in_background, told
from tests.runtime.invariants import check_invariants


def test_a_claim_that_was_being_granted_when_the_server_stops_is_answered_with_its_lease(
    start_replica: StartReplica, runtime: Replica, database: FreshDatabase
) -> None:
    leaving = start_replica()
    runtime.register()
    task = runtime.create()
    body = {"request_id": "r", "slots": 1, "wait_sec": 5}
    with ExitStack() as stack:
        gate = stack.enter_context(ExitStack())
        gate.enter_context(database.audit_closed())
        claim = stack.enter_context(in_background(lambda: leaving.post("/workers/worker/claim", body)))
        database.wait_until_blocked()
        leaving.leave()
        # Its waiting is over, the grant is not: an empty answer now would leave the lease to nobody.
        leaving.run(asyncio.sleep(0))
        gate.close()
        (granted,) = told(claim.result(5))["leases"]
    assert granted["task"]["id"] == task["id"]
    told(runtime.complete(task["id"], granted["lease"]["id"]))
    check_invariants(database)
