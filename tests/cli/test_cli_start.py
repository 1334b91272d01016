"""What `bloom` imports, its help and version, the daemon's options, and the last line of defence."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_runtime import Bloom, FakeRuntime

import bloom as package
from bloom.base.errors import ConfigurationError, Unavailable
from bloom.cli import main as main_module
from bloom.cli.exits import EPILOG, ExitCode

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_imports_nothing_heavy(argument: str) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['bloom', {argument!r}]\n"
        "from bloom.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'httpx', 'pydantic', 'rich', 'psycopg', 'fastapi', 'asyncio'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=30)


def test_the_exit_codes_are_documented_in_the_help_and_in_the_docs(bloom: Bloom) -> None:
    documented = {int(number) for number in re.findall(r"^\| (\d+) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)}
    assert documented == {code.value for code in ExitCode}
    assert {int(number) for number in re.findall(r"\b(\d+) [a-z]", EPILOG)} == documented
    for command in ((), ("task",), ("task", "run"), ("worker",), ("serve",)):
        assert "Exit codes:" in bloom(*command, "--help").stdout


def test_the_version_is_told_in_each_way(bloom: Bloom) -> None:
    assert bloom("--version").stdout == bloom("version").stdout == f"bloom {package.__version__}\n"
    assert f'"version": "{package.__version__}"' in bloom("version", "--json").stdout


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the daemon was started with; it ends with exit code 9."""
    seen: list[Any] = []
    daemon: Any = ModuleType("bloom.worker.daemon")

    def run_worker(options: Any) -> int:
        seen.append(options)
        return 9

    daemon.run_worker = run_worker
    monkeypatch.setitem(sys.modules, "bloom.worker.daemon", daemon)
    return seen


def test_the_daemon_gets_its_options(runtime: FakeRuntime, bloom: Bloom, started: list[Any]) -> None:
    line = "worker --runtime http://h:1/x/ --name pi4 --slots 2 --executor command --config w.toml --grace 5 --lifeline-fd 7"
    assert bloom(*line.split()).exit_code == 9
    (options,) = started
    assert (options.runtime, options.name, options.slots, options.executor) == ("http://h:1/x", "pi4", 2, "command")
    assert (options.config, options.grace_sec, options.lifeline_fd) == (Path("w.toml"), 5, 7)
    assert options.api_key == "the-key"


def test_a_daemon_without_options_finds_its_runtime_and_is_named_after_its_host(
    runtime: FakeRuntime, bloom: Bloom, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "raspberry")
    bloom("worker")
    (options,) = started
    assert (options.runtime, options.name, options.slots, options.executor) == (runtime.url, "raspberry", 1, "auto")


@pytest.mark.parametrize(
    "args", ["--slots 0", "--slots 33", "--executor x", "--grace nan", "--name " + "n" * 129, "--runtime nonsense"]
)
def test_a_daemon_is_not_started_with_wrong_options(bloom: Bloom, started: list[Any], args: str) -> None:
    assert bloom("worker", *args.split(" ", 1)).exit_code == 2
    assert not started


def test_serve_passes_its_options_on(bloom: Bloom, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    server: Any = ModuleType("bloom.server.run")

    def serve(**options: Any) -> None:
        seen.append(options)
        if options["port"] == 1:
            raise Unavailable("Port 1 is taken", code="port_in_use")

    server.serve = serve
    monkeypatch.setitem(sys.modules, "bloom.server.run", server)
    assert bloom("serve", "--host", "::1", "--port", "0", "--fd", "3", "--lifeline-fd", "4", "--reload").exit_code == 0
    assert seen == [{"host": "::1", "port": 0, "fd": 3, "lifeline_fd": 4, "reload": True}]
    refused = bloom("serve", "--port", "1")
    assert refused.exit_code == 1 and refused.stderr == "bloom: Port 1 is taken\n"


def test_db_upgrade_tells_what_it_applied(bloom: Bloom, monkeypatch: pytest.MonkeyPatch) -> None:
    urls: list[str] = []
    applied = ["0001", "0002"]
    migrate: Any = ModuleType("bloom.db.migrate")

    def upgrade(database_url: str) -> list[str]:
        urls.append(database_url)
        return applied

    migrate.upgrade = upgrade
    monkeypatch.setitem(sys.modules, "bloom.db.migrate", migrate)
    missing = bloom("db", "upgrade")
    assert missing.exit_code == 2 and "DATABASE_URL" in missing.stderr
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/d")
    assert bloom("db", "upgrade").stdout == "applied 0001, 0002\n"
    applied.clear()
    assert bloom("db", "upgrade").stdout == "the schema is up to date\n"
    assert '"applied": []' in bloom("db", "upgrade", "--json").stdout
    assert set(urls) == {"postgresql://h/d"}


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("prompt with s3cret"), 1, "unexpected RuntimeError"),
        (OSError(28, "No space left on device", "/s3cret"), 1, "bloom: No space left on device"),
        (ModuleNotFoundError("No module named 'psycopg'", name="psycopg"), 2, "pip install '.[server,embedded]'"),
        (ModuleNotFoundError("No module named 'bloom.x'", name="bloom.x"), 1, "unexpected ModuleNotFoundError"),
    ],
)
def test_what_nobody_foresaw_is_one_line_and_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int, said: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.delenv("BLOOM_DEBUG", raising=False)
    monkeypatch.setattr(main_module, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main_module.main()
    told = capsys.readouterr().err
    assert ended.value.code == code
    assert said in told and len(told.splitlines()) == 1 and "s3cret" not in told


def test_a_wrong_setting_is_wrong_usage(bloom: Bloom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "no number")
    done = bloom("worker", "list")
    assert done.exit_code == 2 and "PORT" in done.stderr
    assert issubclass(ConfigurationError, Exception)


def test_a_closed_stdout_is_no_bug() -> None:
    code = "import sys\nsys.stdout = None\nsys.argv = ['bloom', 'task', 'list', '--runtime', 'http://127.0.0.1:1']\n"
    code += "from bloom.cli.main import main\nmain()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == ExitCode.UNREACHABLE and "bug" not in done.stderr


@pytest.mark.parametrize("url", ["mysql://user@127.0.0.1/x", "garbage"])
def test_a_database_address_that_is_none_is_named_without_its_password(url: str) -> None:
    # A process of its own: serving sets up the logs of the process that does it.
    done = subprocess.run(
        [sys.executable, "-m", "bloom", "serve", "--port", "0"],
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == ExitCode.USAGE
    assert "DATABASE_URL must be of the form postgresql://" in done.stderr and url not in done.stderr
