"""The hooks as the real Claude CLI runs them: the session ends at once, the memory is in the store afterwards."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.stubs.anthropic import running_stub
from tests.sync.claude_mem import remember

from bloom.sync.hooks import install_hooks
from bloom.sync.model import Keys

PATIENCE_SEC = 30
_INSTALLED = Path(__file__).parents[2] / ".build/claude/node_modules/.bin/claude"


@pytest.mark.claude
def test_a_session_of_claude_code_leaves_its_memory_in_the_store(tmp_path: Path) -> None:
    claude = str(_INSTALLED) if _INSTALLED.exists() else shutil.which("claude")
    if claude is None:
        assert os.environ.get("CI") != "true", "the Claude CLI is not installed: `make test` puts it into .build"
        pytest.skip("the Claude CLI is not installed: `make test` puts it into .build, or have it on PATH")
    home, store, database = tmp_path / "home", tmp_path / "store", tmp_path / "home/.claude-mem/claude-mem.db"
    (home / "project").mkdir(parents=True)
    store.mkdir()
    remember(database, "a session")
    install_hooks(home / ".claude/settings.json")
    with running_stub() as stub:
        done = subprocess.run(
            [claude, "-p", "hello"],
            cwd=home / "project",
            env={
                "PATH": f"{Path(claude).parent}:/usr/local/bin:/usr/bin:/bin",
                "HOME": str(home),
                "ANTHROPIC_BASE_URL": stub.url("ok"),
                "ANTHROPIC_API_KEY": "sk-ant-a-key-for-the-stub-only",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "DISABLE_TELEMETRY": "1",
                "DISABLE_AUTOUPDATER": "1",
                "CLAUDE_PROJECT_ID": "hooked",
                "BLOOM_SYNC_DIR": str(store),
                "MEMBRIDGE_NODE_ID": "laptop",
                "PRIMARY_NODE_ID": "laptop",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done
    assert "hook" not in done.stderr.lower()

    log = database.with_name("claude-mem.db.bloom-hooks.log")
    _wait_until(lambda: log.exists() and "sync push: exit code" in log.read_text(), log)
    _wait_until(lambda: "sync pull --merge: exit code" in log.read_text(), log)
    assert "bloom sync push: exit code 0" in log.read_text(), log.read_text()
    assert (store / Keys("hooked").plain).stat().st_size > 0


def _wait_until(holds: Callable[[], bool], log: Path) -> None:
    until = time.monotonic() + PATIENCE_SEC
    while not holds():
        assert time.monotonic() < until, log.read_text() if log.exists() else "no log"
        time.sleep(0.05)
