"""Reading what /metrics tells."""

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.real_runtime import Api


def get_metrics(api: Api, **headers: str) -> httpx.Response:
    """The answer of /metrics."""
    return api.http.get(f"{api.url}/metrics", headers=headers)


def scrape(api: Api, **headers: str) -> str:
    """What /metrics tells."""
    answer = get_metrics(api, **headers)
    assert answer.status_code == 200, answer.text
    return answer.text


def families(text: str) -> dict[str, Metric]:
    """The metrics in `text`, by name; no series is told twice."""
    found: dict[str, Metric] = {}
    series: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for family in text_string_to_metric_families(text):
        assert family.name not in found, family.name
        found[family.name] = family
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in series, key
            series.add(key)
    return found


def value(text: str, name: str, **labels: str) -> float:
    """The value of one series; 0 for one that is not there."""
    for family in families(text).values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return 0.0
