"""What the spool keeps: events by seq, reports for good, whatever the daemon or the disk does."""

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bloom.worker import spool as spools
from bloom.worker.rejected import MAX_FILES, Rejected
from bloom.worker.spool import RunEntry, Spool, SpooledRun

ENTRY = RunEntry("task", "lease", "w1")


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


def texts(events: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(event["seq"], event["data"]["text"]) for event in events]


def say(run: SpooledRun, *said: str) -> None:
    for text in said:
        assert run.append("text", {"text": text}, 7)


def test_events_are_numbered_from_one_and_read_until_they_are_acknowledged(spool: Spool) -> None:
    run = spool.open_run(ENTRY)
    say(run, "a", "b", "c")
    assert texts(run.read_batch(2, 1000)) == [(1, "a"), (2, "b")]
    assert run.acknowledge(3)
    assert texts(run.read_batch(2, 1000)) == [(3, "c")]
    assert run.acknowledge(4)
    assert run.read_batch(2, 1000) == []
    run.close()


def test_a_batch_is_bounded_by_bytes_but_never_empty(spool: Spool) -> None:
    run = spool.open_run(ENTRY)
    say(run, "x" * 500, "y" * 500, "z" * 500)
    assert [seq for seq, _ in texts(run.read_batch(10, 100))] == [1]
    assert [seq for seq, _ in texts(run.read_batch(10, 1200))] == [1, 2]
    run.close()


def test_the_runtime_may_ask_for_events_again_but_not_for_those_that_never_were(spool: Spool) -> None:
    run = spool.open_run(ENTRY)
    say(run, "a", "b")
    assert run.acknowledge(3)
    assert run.acknowledge(1)
    assert [seq for seq, _ in texts(run.read_batch(10, 1000))] == [1, 2]
    assert not run.acknowledge(4)
    assert not run.acknowledge(0)
    run.close()


def test_what_was_delivered_is_given_back_to_the_disk(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "COMPACT_BYTES", 100)
    run = spool.open_run(ENTRY)
    say(run, "x" * 200)
    run.acknowledge(2)
    assert (tmp_path / "spool" / "lease" / "events.jsonl").stat().st_size == 0
    say(run, "next")
    assert texts(run.read_batch(10, 1000)) == [(2, "next")]
    run.close()
    (again,) = spool.leftovers()
    assert texts(again.read_batch(10, 1000)) == [(2, "next")]
    again.close()


def test_a_full_spool_drops_text_counts_it_and_still_takes_statuses(tmp_path: Path) -> None:
    run = SpooledRun(tmp_path, ENTRY, max_bytes=4096)
    kept = [run.append("text", {"text": "x" * 300}, 7) for _ in range(20)]
    assert 0 < kept.count(True) < 20
    assert kept == sorted(kept, reverse=True)
    assert run.append("status", {"state": "started"}, 7)
    *_, gap, status = run.read_batch(100, 100_000)
    assert gap["data"]["dropped"] == kept.count(False)
    assert (gap["seq"] + 1, status["data"]) == (status["seq"], {"state": "started"})
    run.close()


def test_a_gap_at_the_end_is_told_with_the_report(tmp_path: Path) -> None:
    run = SpooledRun(tmp_path, ENTRY, max_bytes=4096)
    while run.append("text", {"text": "x" * 300}, 7):
        pass
    run.write_report({"output": "all"}, 8)
    assert run.read_batch(100, 100_000)[-1]["data"]["dropped"] == 1
    run.close()


def test_a_daemon_after_this_one_finds_events_acknowledgements_and_the_report(spool: Spool) -> None:
    run = spool.open_run(ENTRY)
    say(run, "a", "b", "c")
    run.acknowledge(2)
    run.write_report({"output": "all"}, 8)
    run.close()
    (again,) = spool.leftovers()
    assert (again.entry, again.last_seq, again.acked_seq) == (ENTRY, 3, 1)
    assert texts(again.read_batch(10, 1000)) == [(2, "b"), (3, "c")]
    assert again.read_report() == {"output": "all"}
    again.close()


def test_a_torn_last_event_is_cut_off(spool: Spool, tmp_path: Path) -> None:
    run = spool.open_run(ENTRY)
    say(run, "a")
    run.close()
    path = tmp_path / "spool" / "lease" / "events.jsonl"
    path.write_bytes(path.read_bytes() + b'{"seq":2,"type":"te')
    (again,) = spool.leftovers()
    assert again.last_seq == 1
    say(again, "b")
    assert texts(again.read_batch(10, 1000)) == [(1, "a"), (2, "b")]
    again.close()


def test_a_removed_run_is_gone_and_half_a_removal_is_finished_by_the_next_daemon(spool: Spool, tmp_path: Path) -> None:
    run = spool.open_run(ENTRY)
    run.remove()
    run.remove()
    (tmp_path / "spool" / ".gone-other").mkdir()
    assert spool.leftovers() == []
    assert list((tmp_path / "spool").iterdir()) == []


def test_an_id_that_is_no_file_name_stays_inside_the_spool(spool: Spool, tmp_path: Path) -> None:
    run = spool.open_run(RunEntry("task", "../../etc/evil", "w1"))
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]
    run.close()
    (again,) = spool.leftovers()
    assert again.entry.lease_id == "../../etc/evil"
    again.close()


def test_only_the_worker_s_user_can_read_the_spool(spool: Spool, tmp_path: Path) -> None:
    run = spool.open_run(ENTRY)
    say(run, "secret")
    run.write_report({"output": "secret"}, 8)
    run.close()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "spool").rglob("*")}
    assert set(modes.values()) == {0o700, 0o600}
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700


def test_a_full_disk_costs_events_but_not_the_report(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = spool.open_run(ENTRY)
    say(run, "a")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        assert not run.append("text", {"text": "b"}, 7)
        run.write_report({"output": "all"}, 8)
    assert run.read_report() == {"output": "all"}
    assert "No space left" in caplog.text
    assert texts(run.read_batch(10, 1000)) == [(1, "a")]
    run.close()


def test_rejected_reports_are_few_and_those_without_an_output_are_not_kept(tmp_path: Path) -> None:
    rejected = Rejected(tmp_path / "rejected")
    rejected.keep("none", {"output": None}, "lease_lost")
    for number in range(MAX_FILES + 5):
        rejected.keep(f"lease-{number}", {"output": "text"}, "lease_lost")
        written = time.time() - 1000 + number
        os.utime(tmp_path / "rejected" / f"lease-{number}.json", (written, written))
    kept = {path.name for path in (tmp_path / "rejected").iterdir()}
    assert len(kept) == MAX_FILES
    assert f"lease-{MAX_FILES + 4}.json" in kept
    assert "lease-0.json" not in kept
