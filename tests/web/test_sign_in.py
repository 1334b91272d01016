"""Whoever shows wrong keys is slowed down, and nobody else."""

import logging

import pytest
from web_serving import KEY, Serving

from bloom.base.errors import Throttled
from bloom.web.sign_in import FREE_ATTEMPTS, SignInAttempts

pytestmark = pytest.mark.anyio

THINGS = "/api/runtime/things"


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def ring(presented: bytes) -> str | None:
    return "somebody" if presented == b"right" else None


async def waits(attempts: SignInAttempts, key: bytes = b"wrong", client: str = "192.0.2.7") -> int:
    """For how long this attempt is not looked at; 0 if it was."""
    try:
        await attempts.find(client, key, ring)
    except Throttled as refusal:
        return refusal.retry_after_sec
    return 0


async def test_after_the_free_attempts_each_wrong_key_doubles_the_wait_up_to_half_a_minute() -> None:
    clock = FakeClock()
    attempts = SignInAttempts(clock=clock)
    assert [await waits(attempts) for _ in range(FREE_ATTEMPTS)] == [0] * FREE_ATTEMPTS
    seen: list[int] = []
    for _ in range(8):
        assert await waits(attempts) == 0
        seen.append(await waits(attempts))
        clock.now += seen[-1]
    assert seen == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_while_an_address_waits_no_key_of_it_is_looked_at_but_those_that_were_right_before() -> None:
    clock = FakeClock()
    attempts = SignInAttempts(clock=clock)
    assert await attempts.find("192.0.2.7", b"right", ring) == "somebody"
    for _ in range(FREE_ATTEMPTS + 1):
        await waits(attempts)
        await waits(attempts, client="192.0.2.8")
    assert await attempts.find("192.0.2.7", b"right", ring) == "somebody"
    assert await waits(attempts, b"right", "192.0.2.8") == 1
    assert await attempts.find("192.0.2.9", b"right", ring) == "somebody"
    clock.now += 1
    assert await attempts.find("192.0.2.8", b"right", ring) == "somebody"


async def test_a_key_that_stopped_being_right_is_counted_again() -> None:
    attempts = SignInAttempts(clock=FakeClock())
    await attempts.find("192.0.2.7", b"right", ring)

    async def nobody(presented: bytes) -> str | None:
        return None

    for _ in range(FREE_ATTEMPTS + 1):
        await attempts.find("192.0.2.7", b"right", nobody)
    assert await waits(attempts, b"right") == 1


async def test_addresses_do_not_wait_for_each_other_but_one_ipv6_network_does() -> None:
    attempts = SignInAttempts(clock=FakeClock())
    for number in range(FREE_ATTEMPTS + 1):
        await waits(attempts, client=f"2001:db8::{number}")
    assert await waits(attempts, client="2001:db8::ffff") == 1
    assert await waits(attempts, client="2001:db8:0:1::1") == 0


async def test_an_address_begins_anew_after_a_quarter_of_an_hour_and_memory_is_bounded() -> None:
    clock = FakeClock()
    attempts = SignInAttempts(most=100, clock=clock)
    for _ in range(FREE_ATTEMPTS):
        await waits(attempts)
    clock.now += 900
    assert [await waits(attempts) for _ in range(FREE_ATTEMPTS)] == [0] * FREE_ATTEMPTS
    for number in range(1000):
        await waits(attempts, client=f"10.0.{number // 250}.{number % 250}")
    assert len(attempts) == 100


async def test_over_http_it_is_429_with_the_seconds_and_the_log_has_the_address_and_not_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    serving = Serving()
    with caplog.at_level(logging.WARNING):
        async with serving.client(key="my secret guess") as client:
            answers = [await client.get(THINGS) for _ in range(FREE_ATTEMPTS + 9)]
            opened = await client.post("/api/runtime/test-connection")
            none = await client.get(THINGS, headers={"X-Runtime-API-Key": KEY})
    assert {answer.status_code for answer in answers[: FREE_ATTEMPTS + 1]} == {401}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["code"] == "too_many_wrong_keys"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert opened.status_code == 200 and none.status_code in (200, 429)
    tried = [vars(record) for record in caplog.records if record.getMessage() == "wrong key"]
    assert [(each["client"], each["attempts"]) for each in tried] == [
        ("192.0.2.7", count) for count in range(1, len(tried) + 1)
    ]
    assert "secret guess" not in "".join(str(each) for each in tried)


async def test_showing_no_key_is_no_attempt() -> None:
    async with Serving().client(key=None) as client:
        answers = [(await client.get(THINGS)).status_code for _ in range(FREE_ATTEMPTS + 5)]
    assert set(answers) == {401}


async def test_the_previous_key_of_the_admin_is_taken_beside_the_new_one() -> None:
    async with Serving(RUNTIME_API_KEY_PREVIOUS="the one before").client() as client:
        for key in (KEY, "the one before"):
            answer = await client.get("/api/runtime/whoami", headers={"X-Runtime-API-Key": key})
            assert answer.json()["role"] == "admin"
