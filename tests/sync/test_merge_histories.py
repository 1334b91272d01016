"""Any two histories of one memory: their merge has the rows of both, once, whichever side begins and however often."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.sync.claude_mem import check_whole, create_memory
from tests.sync.histories import STEPS, Step, copy, live_through, memory_of

from bloom.sync.merge import merge_databases

_steps: st.SearchStrategy[list[Step]] = st.lists(
    st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)), max_size=12
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(
    before=[], ours=[("observe", 1, 0, 0)], theirs=[("observe", 0, 0, 1), ("observe", 0, 1, 1)], base_is_known=True
)  # two rows of one moment, whose numbers the other side has in use
@given(before=_steps, ours=_steps, theirs=_steps, base_is_known=st.booleans())
def test_a_merge_holds_all_rows_of_both_histories_once_in_either_order_and_when_repeated(
    before: list[Step], ours: list[Step], theirs: list[Step], base_is_known: bool
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        create_memory(place / "live.db")
        live_through(place / "live.db", before, "base")
        base = copy(place / "live.db", place / "base.db")
        sides: list[Path] = []
        for machine, steps in (("a", ours), ("b", theirs)):
            side = copy(base, place / f"{machine}-live.db")
            live_through(side, steps, machine)
            sides.append(copy(side, place / f"{machine}.db"))
        a, b = sides
        known = base if base_is_known else None

        ab, ba = place / "ab.db", place / "ba.db"
        report = merge_databases(a, b, ab, known)
        merge_databases(b, a, ba, known)
        united = memory_of(ab)

        check_whole(ab)
        assert memory_of(ba) == united
        # The same again, the result at the node whose version it was made with, and that version at the other node.
        for local, remote, old in ((a, ab, known), (b, ab, b), (ab, b, b)):
            again = merge_databases(local, remote, place / "again.db", old)
            assert memory_of(place / "again.db") == united
            assert again.unknown_to_remote == 0 or local == ab
        _assert_nothing_is_dropped(
            memory_of(a), memory_of(b), united, edited={"retitle"} & {s[0] for s in ours + theirs}
        )
        for table in report.tables:
            assert table.rows == table.on_both_sides + table.only_local + table.only_remote


def _assert_nothing_is_dropped(
    a: dict[str, Counter[tuple[Any, ...]]],
    b: dict[str, Counter[tuple[Any, ...]]],
    united: dict[str, Counter[tuple[Any, ...]]],
    edited: set[str],
) -> None:
    for table in ("user_prompts", "session_summaries"):
        assert united[table] == a[table] | b[table], table
    sessions = {row[0] for row in united["sdk_sessions"]}
    assert sessions == {row[0] for side in (a, b) for row in side["sdk_sessions"]}
    hashed = {(row[0], row[3]) for row in united["observations"] if row[3]}
    assert hashed == {(row[0], row[3]) for side in (a, b) for row in side["observations"] if row[3]}
    if not edited:
        unhashed = [Counter((r[0], r[2], r[4]) for r in side["observations"].elements() if not r[3]) for side in (a, b)]
        found = Counter((r[0], r[2], r[4]) for r in united["observations"].elements() if not r[3])
        assert found == unhashed[0] | unhashed[1]
    queued = [{row[:3] for row in side["pending_messages"] if row[2]} for side in (a, b, united)]
    assert queued[2] == queued[0] | queued[1]
