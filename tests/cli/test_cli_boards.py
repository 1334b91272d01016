"""`bloom worker list` shows how the machines are doing."""

from typing import Any

from fake_runtime import Answer, Bloom, FakeRuntime, worker


def test_the_list_shows_each_machine_and_why_it_takes_nothing_new(runtime: FakeRuntime, bloom: Bloom) -> None:
    calm: dict[str, Any] = {
        "free_memory_bytes": 3 * 1024**3,
        "load_1m": 0.5,
        "cores": 1,
        "free_disk_bytes": 40 * 1024**3,
        "pressure": [],
    }
    hot = {"temperature_c": 84.0, "pressure": ["temperature is 84 °C\x1b[2J (limit 80, again at 75)"]}
    runtime.on("GET", "/workers", Answer([worker(board=calm), worker("nuc", board=hot), worker("old")]))
    header, first, second, third = bloom("worker", "list").stdout.splitlines()
    assert header.split()[-1] == "MACHINE"
    assert first.endswith("3.0 GB free, load 0.50 on 1 core, disk 40 GB free")
    assert second.endswith("takes nothing new: temperature is 84 °C (limit 80, again at 75) (84.0 °C)")
    assert third.endswith("-")
