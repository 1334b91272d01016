"""The hooks of Claude Code: what stands in its settings before, with and after them, and what they do when they run."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bloom.base.errors import ConfigurationError
from bloom.cli.sync import app
from bloom.sync import hooks_run
from bloom.sync.hooks import install_hooks, settings_path, uninstall_hooks

PATIENCE_SEC = 5
_FOREIGN = {
    "model": "opus",
    "permissions": {"allow": ["Bash(ls:*)", "Größe"], "deny": []},
    "hooks": {
        "Stop": [{"hooks": [{"type": "command", "command": "say done", "timeout": 5}]}],
        "PreToolUse": [{"matcher": "Bash", "hooks": [{"type": "command", "command": "nice bloom sync hook stop"}]}],
        "SubagentStop": [{"hooks": [{"type": "command", "command": "other-tool sync hook stop || true"}]}],
        "Notification": [],
    },
}
_LAYOUTS: dict[str, bytes] = {
    "as Claude Code writes it": json.dumps(_FOREIGN, indent=2, ensure_ascii=False).encode() + b"\n",
    "compact": json.dumps(_FOREIGN).encode(),
    "tabs and CRLF": json.dumps(_FOREIGN, indent="\t").replace("\n", "\r\n").encode(),
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(_FOREIGN, indent=4).encode(),
    "half a surrogate pair": b'{\n  "note": "\\ud83d"\n}\n',
    "empty object": b"{}",
    "empty file": b"",
    "empty hooks": b'{ "hooks": { "Stop": [] } }',
}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """The path of a settings file that is not there yet."""
    return tmp_path / "home/.claude/settings.json"


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes().decode("utf-8-sig") or "{}")


def _commands(path: Path, event: str) -> list[str]:
    return [hook["command"] for group in _load(path)["hooks"].get(event, []) for hook in group["hooks"]]


def test_a_session_pulls_when_it_begins_and_pushes_when_it_stops_and_when_it_ends(settings: Path) -> None:
    assert install_hooks(settings, "/opt/my python/bin/python").changed

    assert _commands(settings, "SessionStart") == [
        "'/opt/my python/bin/python' -m bloom sync hook session-start || true"
    ]
    assert _commands(settings, "Stop") == ["'/opt/my python/bin/python' -m bloom sync hook stop || true"]
    assert _commands(settings, "SessionEnd") == ["'/opt/my python/bin/python' -m bloom sync hook session-end || true"]
    assert settings.stat().st_mode & 0o777 == 0o600

    assert uninstall_hooks(settings).changed
    assert not settings.exists()
    assert not list(settings.parent.iterdir())


@pytest.mark.parametrize("content", _LAYOUTS.values(), ids=_LAYOUTS.keys())
def test_what_others_put_there_stays_and_after_uninstall_the_file_is_what_it_was_byte_for_byte(
    settings: Path, content: bytes
) -> None:
    _put(settings, content)
    settings.chmod(0o644)
    before = _load(settings)

    install_hooks(settings)
    installed = settings.read_bytes()
    with_ours = _load(settings)
    assert {key: value for key, value in with_ours.items() if key != "hooks"} == {
        key: value for key, value in before.items() if key != "hooks"
    }
    for event, groups in before.get("hooks", {}).items():
        assert with_ours["hooks"][event][: len(groups)] == groups
    assert not install_hooks(settings).changed
    assert settings.read_bytes() == installed
    assert settings.stat().st_mode & 0o777 == 0o644

    assert uninstall_hooks(settings).changed
    assert settings.read_bytes() == content
    assert not uninstall_hooks(settings).changed


def test_in_a_file_as_claude_code_writes_it_only_lines_are_added(settings: Path) -> None:
    _put(settings, _LAYOUTS["as Claude Code writes it"])
    before = settings.read_text(encoding="utf-8").splitlines()
    install_hooks(settings)
    after = iter(settings.read_text(encoding="utf-8").splitlines())
    assert all(line.rstrip(",") in (later.rstrip(",") for later in after) for line in before)


def test_uninstall_takes_out_exactly_ours_when_the_file_has_changed_since(settings: Path) -> None:
    _put(settings, _LAYOUTS["as Claude Code writes it"])
    install_hooks(settings)
    changed = _load(settings)
    changed["model"] = "sonnet"
    changed["hooks"]["Stop"][-1]["hooks"].append({"type": "command", "command": "of the owner"})
    _put(settings, json.dumps(changed, indent=2, ensure_ascii=False).encode())

    uninstall_hooks(settings)

    assert _load(settings)["model"] == "sonnet"
    assert _commands(settings, "Stop") == ["say done", "of the owner"]
    assert _commands(settings, "PreToolUse") == ["nice bloom sync hook stop"]
    assert _commands(settings, "SubagentStop") == ["other-tool sync hook stop || true"]
    assert _load(settings)["hooks"]["Notification"] == []
    assert not {"SessionStart", "SessionEnd"} & _load(settings)["hooks"].keys()


@pytest.mark.parametrize("old", ["/old/bin/python", "/home/o'brien/my venv/python"])
def test_another_installation_takes_the_place_of_the_old_one(settings: Path, old: str) -> None:
    install_hooks(settings, old)
    assert install_hooks(settings, "/new/bin/python").changed
    assert _commands(settings, "Stop") == ["/new/bin/python -m bloom sync hook stop || true"]


@pytest.mark.parametrize(
    "content",
    [
        *(b'{"model": "opus",}', b"[]", b'{"hooks": []}', b'{"hooks": {"Stop": {}}}', b'{"hooks": {"Stop": ["x"]}}'),
        *(b"\xff", b'{"a": 1, "a": 2}', b"// comment\n{}"),
    ],
)
def test_settings_that_are_not_understood_are_refused_and_stay_untouched(settings: Path, content: bytes) -> None:
    _put(settings, content)
    for change in (install_hooks, uninstall_hooks):
        with pytest.raises(ConfigurationError, match="nothing was changed"):
            change(settings)
    assert settings.read_bytes() == content
    assert [path.name for path in settings.parent.iterdir()] == ["settings.json"]


def test_a_link_into_a_repository_of_settings_stays_a_link(settings: Path, tmp_path: Path) -> None:
    _put(tmp_path / "dotfiles/claude.json", b"{}\n")
    settings.parent.mkdir(parents=True)
    settings.symlink_to(tmp_path / "dotfiles/claude.json")
    install_hooks(settings)
    assert settings.is_symlink()
    assert _commands(tmp_path / "dotfiles/claude.json", "Stop")


def test_the_owner_is_told_what_would_keep_the_hooks_from_working(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLAUDE_PROJECT_ID", "MINIO_ENDPOINT", "BLOOM_SYNC_DIR"):
        monkeypatch.delenv(name, raising=False)
    _put(settings, b'{"disableAllHooks": true}')
    assert [hint.split(" ")[0] for hint in install_hooks(settings).hints] == ["disableAllHooks", "the"]
    _put(settings, b'{"env": {"CLAUDE_PROJECT_ID": "demo", "BLOOM_SYNC_DIR": "/x"}}')
    assert install_hooks(settings).hints == ()
    _put(settings, b'{"env": 5}')
    assert [hint.split(" ")[0] for hint in install_hooks(settings).hints] == ["the"]


def test_the_settings_are_those_of_the_configuration_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(tmp_path))
    assert settings_path() == tmp_path / "settings.json"


def test_the_command_says_what_it_did_to_which_file(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(settings.parent))

    def run(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["install-hooks", *words])
        assert result.exit_code == code, result.output
        return result.output

    assert run().startswith(f"hooks installed in {settings}")
    assert run().startswith(f"hooks already in {settings}")
    told = json.loads(run("--uninstall", "--json"))
    assert (told["settings"], told["changed"]) == (str(settings), True)
    assert run("--uninstall").startswith(f"hooks not in {settings}")
    _put(settings, b"{,}")
    assert "not valid JSON" in run(code=2)


class Started:
    """Stands for the Python that hooks start: says what it was told over a pipe, then does what the test wrote."""

    def __init__(self, directory: Path) -> None:
        self.program, self._pipe_path = directory / "python", directory / "pipe"
        os.mkfifo(self._pipe_path)
        self._pipe = os.open(self._pipe_path, os.O_RDWR)
        self.does("")

    def does(self, shell: str) -> None:
        self.program.write_text(f'#!/bin/sh\necho "$* $BLOOM_SYNC_LEAVE_CLAUDE_MEM" > {self._pipe_path}\n{shell}\n')
        self.program.chmod(0o755)

    def heard(self, seconds: float = PATIENCE_SEC) -> str | None:
        if not select.select([self._pipe], [], [], seconds)[0]:
            return None
        return os.read(self._pipe, 1000).decode().strip()

    def close(self) -> None:
        os.close(self._pipe)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Started]:
    started = Started(tmp_path)
    monkeypatch.setenv("CLAUDE_MEM_DB", str(tmp_path / "data/claude-mem.db"))
    monkeypatch.setattr("bloom.sync.hooks_run.sys.executable", str(started.program))
    yield started
    started.close()


def _set_back(mark: Path, seconds: float) -> None:
    moment = mark.stat().st_mtime - seconds
    os.utime(mark, (moment, moment))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # what a hook starts outlives it
def test_a_hook_starts_its_sync_in_the_background_and_not_again_within_its_pause(
    started: Started, tmp_path: Path
) -> None:
    hooks_run.begin("stop")
    assert started.heard() == "-m bloom sync hook stop --in-background"
    hooks_run.begin("stop")
    assert started.heard(0) is None

    hooks_run.begin("session-start")  # the pull has a pause of its own
    assert started.heard() == "-m bloom sync hook session-start --in-background"

    mark = tmp_path / "data/claude-mem.db.bloom-hook-push"
    _set_back(mark, 301)
    hooks_run.begin("stop")
    assert started.heard() == "-m bloom sync hook stop --in-background"
    _set_back(mark, -9999)  # the clock was put back
    hooks_run.begin("session-end")
    assert started.heard() == "-m bloom sync hook session-end --in-background"


def test_what_the_sync_says_is_in_the_log_and_claude_mems_worker_is_left_alone(
    started: Started, tmp_path: Path
) -> None:
    started.does("echo merged; echo refused >&2; exit 3")
    (tmp_path / "data").mkdir()
    hooks_run.work("session-start")
    assert started.heard() == "-m bloom sync pull --merge 1"
    hooks_run.work("stop")
    assert started.heard() == "-m bloom sync push 1"
    log = (tmp_path / "data/claude-mem.db.bloom-hooks.log").read_text()
    assert "session-start: bloom sync pull --merge: exit code 3" in log
    assert "refused" in log


def test_a_sync_that_hangs_is_given_up_and_noted(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bloom.sync.hooks_run._SYNC_SEC", 0.2)
    started.does("exec sleep 60")
    (tmp_path / "data").mkdir()
    hooks_run.work("stop")
    assert "stop: bloom sync push: TimeoutExpired" in (tmp_path / "data/claude-mem.db.bloom-hooks.log").read_text()


def test_the_log_is_rotated(started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bloom.sync.hooks_run._LOG_BYTES", 1000)
    (tmp_path / "data").mkdir()
    for number in range(40):
        hooks_run.note(f"line {number} " + "x" * 200)
    logs = sorted((tmp_path / "data").glob("*.bloom-hooks.log*"))
    assert [log.name.rpartition(".")[2] for log in logs] == ["log", "1", "2", "3"]
    assert max(log.stat().st_size for log in logs) < 1500
    assert "line 39" in logs[0].read_text()


def _unwritable(directory: Path) -> dict[str, str]:
    return {"CLAUDE_MEM_DB": "/proc/nothing/claude-mem.db"}


def _a_file_in_the_way(directory: Path) -> dict[str, str]:
    (directory / "file").write_text("")
    return {"CLAUDE_MEM_DB": str(directory / "file/claude-mem.db")}


@pytest.mark.parametrize(
    ("event", "circumstance"),
    [("stop", _unwritable), ("session-end", _a_file_in_the_way), ("of-a-later-release", _unwritable)],
)
def test_the_command_ends_with_0_whatever_stands_in_its_way(
    event: str, circumstance: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **circumstance(tmp_path)}
    for more in ([], ["--in-background"])[: 2 if event == "stop" else 1]:
        done = subprocess.run(
            [sys.executable, "-m", "bloom", "sync", "hook", event, *more],
            env=environment,
            input=b'{"hook_event_name": "Stop"}',
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
