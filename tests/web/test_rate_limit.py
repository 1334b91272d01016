"""Who may call how often."""

import pytest
from web_serving import KEY, Serving

from bloom.base.errors import ConfigurationError
from bloom.web.rate_limit import Budget, Windows, client_key, parse_rate_limit

pytestmark = pytest.mark.anyio


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limited(limit: str = "3/minute") -> Serving:
    return Serving(BLOOM_RATE_LIMIT=limit)


async def statuses(
    serving: Serving, path: str, count: int, *, method: str = "GET", peer: str = "192.0.2.7"
) -> list[int]:
    async with serving.client(peer=peer) as client:
        return [(await client.request(method, path)).status_code for _ in range(count)]


async def test_the_request_over_the_limit_is_refused_and_told_when_to_come_back() -> None:
    serving = limited()
    assert await statuses(serving, "/api/runtime/things", 3) == [200, 200, 200]
    async with serving.client() as client:
        response = await client.get("/api/runtime/things")
    assert response.status_code == 429
    assert response.json() == {"error": "Too many requests, please try again later", "code": "rate_limited"}
    assert response.headers["ratelimit-limit"] == "3"
    assert response.headers["ratelimit-remaining"] == "0"
    assert response.headers["retry-after"] == response.headers["ratelimit-reset"]
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_each_answer_says_what_is_left() -> None:
    async with limited().client() as client:
        left = [(await client.get("/api/membridge/x")).headers["ratelimit-remaining"] for _ in range(2)]
    assert left == ["2", "1"]


async def test_clients_do_not_share_but_one_ipv6_network_does() -> None:
    serving = limited("1/minute")
    peers = ["192.0.2.7", "192.0.2.8", "2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1"]
    answers = [(await statuses(serving, "/api/runtime/things", 1, peer=peer))[0] for peer in peers]
    assert answers == [200, 200, 200, 429, 200]


async def test_by_key_a_caller_has_one_budget_wherever_it_comes_from_and_strangers_have_that_of_their_address() -> None:
    serving = Serving(BLOOM_RATE_LIMIT="2/minute", BLOOM_RATE_LIMIT_BY="key")
    peers = ["192.0.2.7", "192.0.2.8", "2001:db8::1"]
    answers = [(await statuses(serving, "/api/runtime/things", 1, peer=peer))[0] for peer in peers]
    assert answers == [200, 200, 429]
    async with serving.client(key=None) as client:
        assert [(await client.get("/api/runtime/things")).status_code for _ in range(3)] == [401, 401, 429]


async def test_health_and_pages_are_free() -> None:
    serving = limited("1/minute")
    assert await statuses(serving, "/api/runtime/health", 5) == [200] * 5
    assert await statuses(serving, "/page", 5) == [200] * 5


async def test_test_connection_has_twenty_a_minute() -> None:
    answers = await statuses(limited(), "/api/runtime/test-connection", 21, method="POST")
    assert answers == [200] * 20 + [429]


@pytest.mark.parametrize("path", ["/api/runtime/workers/w1/claim", "/api/runtime/llm-tasks/t1/events"])
async def test_a_workers_own_calls_do_not_spend_the_general_budget(path: str) -> None:
    serving = limited("1/minute")
    assert await statuses(serving, path, 30, method="POST") == [200] * 30
    assert await statuses(serving, "/api/runtime/things", 2) == [200, 429]


@pytest.mark.parametrize("path", ["/api/runtime/workers/w1/claim", "/api/runtime/llm-tasks/t1/events"])
async def test_wrong_keys_spend_the_general_budget_on_any_path(path: str) -> None:
    async with limited().client(key="wrong") as client:
        answers = [(await client.post(path)).status_code for _ in range(4)]
        right = await client.post("/api/runtime/things", headers={"X-Runtime-API-Key": KEY})
    assert answers == [401, 401, 401, 429]
    assert right.status_code == 429


async def test_off_means_no_limit_and_no_headers() -> None:
    async with limited("off").client() as client:
        answers = [await client.post("/api/runtime/test-connection") for _ in range(30)]
    assert {answer.status_code for answer in answers} == {200}
    assert "ratelimit-limit" not in answers[0].headers


@pytest.mark.parametrize(
    "text", ["", "100", "fast", "0/minute", "-1/minute", "1/fortnight", "1/second;2/minute", "1e3/s"]
)
def test_a_bad_limit_is_named_with_an_example(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"BLOOM_RATE_LIMIT must be like 100/minute"):
        parse_rate_limit(text)


def test_a_window_ends_by_the_clock() -> None:
    clock = FakeClock()
    limit = parse_rate_limit("2/minute")
    assert limit is not None
    budget = Budget(limit, clock)
    assert [budget.spend("a")[:2] for _ in range(3)] == [(True, 60), (True, 60), (False, 60)]
    clock.now += 59.5
    assert budget.spend("a")[:2] == (False, 1)
    clock.now += 0.5
    assert budget.spend("a")[:2] == (True, 60)


def test_memory_is_bounded_and_the_oldest_window_goes_first() -> None:
    windows = Windows(60, most=100, clock=FakeClock())
    for number in range(10_000):
        windows.count(str(number))
    assert len(windows) == 100
    assert windows.count("9999")[0] == 2
    assert windows.count("0")[0] == 1


def test_windows_that_have_ended_are_forgotten() -> None:
    clock = FakeClock()
    windows = Windows(60, clock=clock)
    for number in range(50):
        windows.count(str(number))
    clock.now += 60
    windows.count("new")
    assert len(windows) == 1


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
    ],
)
def test_a_client_is_an_address_or_a_network(host: str, key: str) -> None:
    assert client_key(host) == key
