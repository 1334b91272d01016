"""What the executors' tests share: the stub of the Messages API, the real Claude CLI, and a look at living processes."""

import os
import shutil
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
from recording import Make
from tests.stubs.anthropic import AnthropicStub, running_stub

from bloom.worker.config import WorkerConfig
from bloom.worker.executors.choice import build_executor
from bloom.worker.executors.interface import Executor

REPOSITORY = Path(__file__).parents[2]
INSTALLED = REPOSITORY / ".build" / "claude" / "node_modules" / ".bin" / "claude"


@pytest.fixture
def stub() -> Generator[AnthropicStub]:
    """A stub of the Messages API on loopback."""
    with running_stub() as running:
        yield running


@pytest.fixture(scope="session")
def claude_program() -> Path:
    """The real Claude CLI. Where it is missing the test is skipped; under CI=true it fails."""
    found = INSTALLED if INSTALLED.exists() else shutil.which("claude")
    if found is None:
        reason = "the Claude CLI is not installed: `make test` puts it into .build, or have it on PATH"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return Path(found)


@pytest.fixture
def claude_environment(claude_program: Path, stub: AnthropicStub, tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Makes a worker's whole environment: nothing of this process's own, the API is the stub in the given mode."""
    home = tmp_path / "home"
    home.mkdir()

    def environment(mode: str) -> dict[str, str]:
        return {
            "PATH": f"{claude_program.parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(home),
            "ANTHROPIC_BASE_URL": stub.url(mode),
            "ANTHROPIC_API_KEY": "sk-ant-a-key-for-the-stub-only",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
        }

    return environment


@pytest.fixture
def claude(claude_environment: Callable[[str], dict[str, str]], tmp_path: Path) -> Make:
    """Makes the `claude` executor, the stub in the given mode; all of one test keep their sessions together."""

    def make(mode: str, *, environment: Mapping[str, str] | None = None, **config: Any) -> Executor:
        settings = WorkerConfig.model_validate({"stop_grace_sec": 1, **config})
        given = claude_environment(mode) | dict(environment or {})
        return build_executor(settings, tmp_path / "workspace", "claude", given)

    return make
