"""The dashboard, the alert rules and the logrotate file, against what the runtime really tells and really does."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from scraping import families, scrape
from tests.real_runtime import Replica

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "bloom-alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "bloom-runtime.json"
LOGROTATE = shutil.which("logrotate") or shutil.which("/usr/sbin/logrotate")

# Logs each line that it reads.
WRITER = """
import logging, sys
from bloom.base.logging import configure_logging
from bloom.base.settings import ProcessSettings, load
configure_logging(load(ProcessSettings))
for line in sys.stdin:
    logging.getLogger("bloom").error(line.strip())
    print("written", flush=True)
"""

EXPECTED_ALERTS = {
    "BloomQueuedTooLong",
    "BloomDeadRate",
    "BloomWorkerGone",
    "BloomStoreFailing",
    "BloomMembridgeFailing",
    "BloomDatabaseAway",
}


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def dashboard_queries() -> Iterator[str]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_each_metric_of_dashboard_alerts_and_scaling_is_one_that_the_runtime_tells(quiet_runtime: Replica) -> None:
    told = families(scrape(quiet_runtime))
    names = {name + suffix for name in told for suffix in ("", "_total", "_bucket", "_sum", "_count")}
    scaling = re.findall(r"query: (.*bloom_.*)", (DEPLOY / "kubernetes" / "worker.yaml").read_text())
    assert scaling
    for query in (*dashboard_queries(), *(rule["expr"] for rule in alerts()), *scaling):
        used = set(re.findall(r"bloom_[a-z_]+", query))
        assert used <= names, (query, used - names)
        assert used or query == 'up{job="bloom-runtime"} == 0', query


def test_each_metric_that_the_runtime_tells_is_drawn(quiet_runtime: Replica) -> None:
    drawn = re.findall(r"bloom_[a-z_]+", DASHBOARD.read_text())
    told = {name for name in families(scrape(quiet_runtime)) if name != "bloom_object_store_configured"}
    assert {name for name in told if not any(used.startswith(name) for used in drawn)} == set()


def test_the_alerts_that_an_operator_needs_are_there_and_say_what_happened() -> None:
    assert {rule["alert"] for rule in alerts()} >= EXPECTED_ALERTS
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in alerts())


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (of Prometheus) is not installed")
def test_promtool_takes_the_alert_rules() -> None:
    subprocess.run(["promtool", "check", "rules", str(ALERTS)], check=True, capture_output=True)


@pytest.mark.skipif(LOGROTATE is None, reason="logrotate is not installed")
def test_logrotate_sets_the_logs_aside_and_what_writes_goes_on_at_the_new_end(tmp_path: Path) -> None:
    assert LOGROTATE is not None
    logs = tmp_path / "log"
    logs.mkdir(mode=0o755)
    config = tmp_path / "bloom-runtime.conf"
    config.write_text((DEPLOY / "logrotate" / "bloom-runtime").read_text().replace("/var/log", str(logs)))
    config.chmod(0o644)
    log, error_log = logs / "bloom-runtime.log", logs / "bloom-runtime-error.log"
    # As a service manager does it: stderr is appended to a file that nobody opens again.
    with error_log.open("ab") as stderr:
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "BLOOM_LOG_FILE": str(log)},
        )
    assert writer.stdin is not None and writer.stdout is not None
    try:
        for line in ("before", "after"):
            writer.stdin.write(f"{line}\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == "written\n"
            if line == "before":
                state = str(tmp_path / "state")
                subprocess.run([LOGROTATE, "--force", "--state", state, str(config)], check=True, capture_output=True)
    finally:
        writer.stdin.close()
        writer.wait(30)
        writer.stdout.close()
    for path in (log, error_log):
        (aside,) = logs.glob(f"{path.name}-*")
        assert "before" in aside.read_text() and "after" not in aside.read_text()
        assert "after" in path.read_text() and path.read_bytes()[0] != 0
