"""What `deploy/` holds for service managers and containers is what its programs take, and no more than it needs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SERVICES = {"bloom-runtime": ["serve"], "membridge-server": ["membridge", "serve"], "bloom-worker": ["worker"]}
MOST_EXPOSED = {"bloom-runtime": 2.0, "membridge-server": 2.0, "bloom-worker": 4.5}
"""Of 10, by `systemd-analyze security`."""

TOOLS = Path(sys.executable).parent

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The outcome of a command."""
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**os.environ, **environment}, timeout=60
    )


@needs_systemd
@pytest.mark.parametrize("name", SERVICES)
def test_a_unit_is_one_that_systemd_takes_and_confines(name: str, tmp_path: Path) -> None:
    text = (DEPLOY / f"systemd/{name}.service").read_text()
    unit = tmp_path / f"{name}.service"
    unit.write_text(text.replace("/opt/bloom/bin/bloom", str(TOOLS / "bloom")))
    verified = run("systemd-analyze", "verify", "--man=no", unit)
    complaints = [line for line in verified.stderr.splitlines() if name in line and "not executable" not in line]
    assert not complaints, verified.stderr
    rated = run("systemd-analyze", "security", "--offline=yes", "--no-pager", unit)
    found = re.search(r"exposure level for \S+: ([0-9.]+)", rated.stdout)
    assert found and float(found[1]) <= MOST_EXPOSED[name], rated.stdout[-300:]


@pytest.mark.parametrize("name", SERVICES)
def test_both_service_managers_start_the_same_program_as_no_root_and_with_one_file_of_settings(name: str) -> None:
    unit, script = (DEPLOY / f"systemd/{name}.service").read_text(), (DEPLOY / f"openrc/{name}").read_text()
    command = " ".join(SERVICES[name])
    assert f"ExecStart=/opt/bloom/bin/bloom {command}\n" in unit
    assert "command=/opt/bloom/bin/bloom\n" in script and f'command_args="{command}"' in script
    user = "bloom-worker" if name == "bloom-worker" else "bloom"
    assert f"\nUser={user}\n" in unit and f'command_user="{user}:{user}"' in script
    settings = "/etc/bloom-worker.env" if name == "bloom-worker" else "/etc/bloom-runtime.env"
    assert re.search(rf"EnvironmentFile=-?{settings}\n", unit) and f". {settings}\n" in script
    assert run(TOOLS / "bloom", *SERVICES[name], "--help").returncode == 0


@pytest.mark.parametrize("name", SERVICES)
def test_an_openrc_script_is_sound_and_hands_its_settings_over(name: str, tmp_path: Path) -> None:
    script = DEPLOY / f"openrc/{name}"
    assert os.access(script, os.X_OK)
    # SC2034: openrc-run reads the variables. SC1091: the file of settings is the machine's.
    checked = run(TOOLS / "shellcheck", "--shell=sh", "--exclude=SC2034,SC1091", script)
    assert checked.returncode == 0, checked.stdout
    settings = tmp_path / "settings"
    settings.write_text("RUNTIME_API_KEY='with $ and spaces'\n")
    text = re.sub(r"/etc/bloom-(runtime|worker)\.env", str(settings), script.read_text())
    sourced = f"checkpath() {{ :; }}\n{text}\nstart_pre && exec printenv RUNTIME_API_KEY"
    assert run("sh", "-euc", sourced).stdout == "with $ and spaces\n"


def test_the_dockerfile_follows_the_rules_and_runs_as_no_root() -> None:
    hadolint = TOOLS / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint has no build for this machine")
    # DL3008: packages of Debian stable get fixes under new versions; a pinned one would stop the build.
    checked = run(hadolint, "--ignore=DL3008", DEPLOY / "docker/Dockerfile")
    assert checked.returncode == 0, checked.stdout
    text = (DEPLOY / "docker/Dockerfile").read_text()
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    for stage in stages:
        if "ENTRYPOINT" in stage:
            assert re.search(r"^USER [1-9][0-9]*:[1-9][0-9]*$", stage, re.MULTILINE), stage
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        assert all((ROOT / each).exists() for each in source.split()), source


def test_the_compose_file_names_what_is_there_and_listens_on_loopback_alone() -> None:
    text = (DEPLOY / "docker/compose.yaml").read_text()
    compose: Any = yaml.safe_load(text)
    for name, service in compose["services"].items():
        for published in service.get("ports", ()):
            assert published.startswith("127.0.0.1:"), name
        build = service.get("build")
        if build:
            assert (DEPLOY / "docker" / build["context"]).resolve() == ROOT
            assert (ROOT / build["dockerfile"]).is_file()
    given = set(re.findall(r"^#?([A-Z_]+)=", (DEPLOY / "docker/env.example").read_text(), re.MULTILINE))
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) <= given


def manifests() -> list[dict[str, Any]]:
    """All Kubernetes objects."""
    return [
        each for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for each in yaml.safe_load_all(file.read_text())
    ]


def test_the_manifests_are_of_the_schema_of_kubernetes() -> None:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    # KEDA's own object has no schema there.
    checked = run(TOOLS / "kubernetes-validate", "--strict", *files)
    failed = [
        line
        for line in checked.stdout.splitlines() + checked.stderr.splitlines()
        if "ERROR" in line and "ScaledObject" not in line
    ]
    assert not failed, failed


def test_pods_are_watched_confined_and_given_their_secrets_by_reference() -> None:
    deployments = {each["metadata"]["name"]: each["spec"] for each in manifests() if each["kind"] == "Deployment"}
    assert set(deployments) == {"bloom-runtime", "membridge", "bloom-worker"}
    for name, spec in deployments.items():
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"], name
        assert not container["securityContext"]["allowPrivilegeEscalation"], name
        assert all("KEY" not in given["name"] for given in container.get("env", ())), name
        if name != "bloom-worker":
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), name
    budgets = [each["spec"] for each in manifests() if each["kind"] == "PodDisruptionBudget"]
    assert [each["selector"]["matchLabels"] for each in budgets] == [{"app": "bloom-runtime"}]
    (scaled,) = [each["spec"] for each in manifests() if each["kind"] == "ScaledObject"]
    assert scaled["scaleTargetRef"]["name"] == "bloom-worker"
    assert "bloom_tasks" in scaled["triggers"][0]["metadata"]["query"]
