"""An outage is one line in the log, and its end another, however many loops tried how often."""

import logging
from dataclasses import replace

import pytest

from bloom.client import RuntimeRefused, RuntimeUnreachable
from bloom.worker.options import Pace
from bloom.worker.reachability import Backoff, Reachability, is_passing

GONE = RuntimeUnreachable("cannot reach the runtime")
WRONG_KEY = RuntimeRefused("wrong key", status=401, code="unauthorized")


def refusal(status: int, retry_after_sec: float | None = None) -> RuntimeRefused:
    return RuntimeRefused("no", status=status, code="x", retry_after_sec=retry_after_sec)


def test_one_line_when_the_runtime_goes_and_one_when_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reachability = Reachability()
    for _ in range(100):
        reachability.failed("claim", GONE)
        reachability.failed("extend", GONE)
    reachability.answered("extend")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    reachability.answered("claim")
    reachability.answered("claim")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_refused_key_is_told_even_in_an_outage_and_once(caplog: pytest.LogCaptureFixture) -> None:
    reachability = Reachability()
    for error in (GONE, WRONG_KEY, GONE, WRONG_KEY):
        reachability.failed("claim", error)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "BLOOM_API_KEY" in caplog.text


def test_a_second_outage_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    reachability = Reachability()
    for _ in range(2):
        reachability.failed("claim", GONE)
        reachability.answered("claim")
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("error", "passing"),
    [
        (GONE, True),
        (WRONG_KEY, True),
        (refusal(403), True),
        (refusal(429), True),
        (refusal(500), True),
        (refusal(503), True),
        (refusal(400), False),
        (refusal(404), False),
        (refusal(409), False),
        (refusal(413), False),
    ],
)
def test_what_is_tried_again_and_what_is_final(error: RuntimeUnreachable | RuntimeRefused, passing: bool) -> None:
    assert is_passing(error) is passing


def test_pauses_double_with_jitter_up_to_a_bound_and_begin_again_after_a_success() -> None:
    backoff = Backoff(Pace())
    pauses = [backoff.pause_sec(GONE) for _ in range(10)]
    for pause, full in zip(pauses, [0.5, 1, 2, 4, 8, 10, 10, 10, 10, 10], strict=True):
        assert full / 2 <= pause <= full
    backoff.reset()
    assert backoff.pause_sec(GONE) <= 0.5


def test_a_refused_key_is_tried_slowly_and_a_wish_of_the_runtime_is_followed() -> None:
    backoff = Backoff(replace(Pace(), refused_sec=60))
    assert backoff.pause_sec(WRONG_KEY) == 60
    assert backoff.pause_sec(refusal(503, 7)) == 7
    assert backoff.pause_sec(refusal(429, 86_400)) == 300
