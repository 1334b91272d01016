"""The two memories never mix: sync touches no git repository, and what will be the git memory cannot reach claude-mem.db."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from tests.sync.claude_mem import remember, sessions

_SOURCE = Path(__file__).parents[2] / "src"
_CARRIERS = ("bloom.sync", "bloom.membridge", "bloom.upstream")
"""The packages that carry claude-mem.db, or say who may."""
_GIT_MEMORY = "bloom.memory"
_GIT = ("git", "pygit2", "dulwich")


def _is_in(module: str, packages: Iterable[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _wrong(imports: Mapping[str, set[str]]) -> list[str]:
    """The imports by which one memory could reach the other. `bloom.cli` may show both, since it keeps neither."""
    found: list[str] = []
    for module, names in imports.items():
        for name in names:
            carries = _is_in(module, _CARRIERS)
            is_git = _is_in(module, [_GIT_MEMORY])
            if (
                (carries and _is_in(name, (_GIT_MEMORY, *_GIT)))
                or (is_git and _is_in(name, (*_CARRIERS, "sqlite3")))
                or (name == "sqlite3" and not _is_in(module, ["bloom.sync"]))
                or (_is_in(name, ["bloom.sync"]) and not _is_in(module, ["bloom.sync", "bloom.cli"]))
            ):
                found.append(f"{module} imports {name}")
    return found


def _imports_of(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(_SOURCE).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_bytes()
        )
        for path in _SOURCE.rglob("*.py")
    }


def test_no_module_of_one_memory_imports_the_other_and_only_sync_opens_sqlite() -> None:
    modules = _modules()
    assert _wrong({name: _imports_of(tree) for name, tree in modules.items()}) == []
    assert "bloom.sync.push" in modules  # the look was at the right place


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("bloom.sync.push", "bloom.memory.store"),
        ("bloom.membridge.service", "bloom.memory"),
        ("bloom.memory.proposals", "bloom.sync.database"),
        ("bloom.memory.apply", "sqlite3"),
        ("bloom.tasks.service", "sqlite3"),
        ("bloom.worker.work", "bloom.sync"),
        ("bloom.sync.hooks", "git"),
    ],
)
def test_such_an_import_would_be_found(module: str, name: str) -> None:
    assert _wrong({module: {name}}) == [f"{module} imports {name}"]


def test_sync_starts_no_program_but_itself_and_the_worker_that_it_stopped() -> None:
    starts: set[str] = set()
    for name, tree in _modules().items():
        if _is_in(name, ["bloom.sync"]):
            for node in ast.walk(tree):
                called = node.func if isinstance(node, ast.Call) else None
                words = (
                    called.attr
                    if isinstance(called, ast.Attribute)
                    else called.id
                    if isinstance(called, ast.Name)
                    else ""
                )
                if words in (
                    "Popen",
                    "run",
                    "system",
                    "create_subprocess_exec",
                    "create_subprocess_shell",
                    "posix_spawn",
                ) and (
                    not isinstance(called, ast.Attribute)
                    or ast.unparse(called.value) in ("subprocess", "os", "asyncio")
                ):
                    starts.add(name.removeprefix("bloom.sync."))
    assert starts == {"claude_mem_process", "hooks_run", "agent_job"}


_AUDITED = """
import json, os, sys
seen = []
def note(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        mode, flags = args[1] or "", args[2]
        if set(mode) & set("wax+") or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
            seen.append((event, os.path.abspath(os.fsdecode(args[0]))))
    elif event in ("os.rename", "os.link", "os.symlink"):
        seen.extend((event, os.path.abspath(os.fsdecode(path))) for path in args[:2])
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.utime", "sqlite3.connect"):
        path = os.fsdecode(args[0]) if not isinstance(args[0], int) else "/"
        seen.append((event, os.path.abspath(path.removeprefix("file://").partition("?")[0])))
    elif event in ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.system"):
        seen.append((event, str(args[0])))
sys.addaudithook(note)
from bloom.cli.main import app
codes = []
for environment, argv in json.loads(sys.stdin.read()):
    os.environ.update(environment)
    sys.argv = ["bloom", "sync", *argv]
    try:
        app()
        codes.append(0)
    except SystemExit as end:
        codes.append(end.code or 0)
print(json.dumps({"codes": codes, "seen": seen}), file=sys.stderr, flush=True)
os._exit(0)  # as `bloom` itself leaves where obstore was used
"""


def _tree(root: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def test_push_pull_and_merge_in_a_git_repository_leave_it_untouched_and_write_only_where_the_memory_is(
    tmp_path: Path,
) -> None:
    repository, home, store = tmp_path / "repository", tmp_path / "home", tmp_path / "store"
    for directory in (repository, home, store):
        directory.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(tmp_path / "no such directory")}
    (repository / "MEMORY.md").write_text("what the git memory knows\n")
    for words in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "memory"],
    ):
        subprocess.run(["git", *words], cwd=repository, env=environment, check=True, timeout=30)
    before, home_before = _tree(repository), _tree(home)
    databases = {name: tmp_path / name / "claude-mem.db" for name in ("a", "b")}
    remember(databases["a"], "from a")
    remember(databases["b"], "from b")

    def on(node: str, *argv: str) -> tuple[dict[str, str], tuple[str, ...]]:
        return {"CLAUDE_MEM_DB": str(databases[node]), "MEMBRIDGE_NODE_ID": node}, argv

    commands = [on("a", "push"), on("b", "pull", "--merge"), on("b", "push"), on("b", "status"), on("b", "doctor")]
    commands += [on("a", "history"), on("a", "pull"), on("b", "pull")]
    done = subprocess.run(
        [sys.executable, "-B", "-c", _AUDITED],
        cwd=repository,
        env={**environment, "CLAUDE_PROJECT_ID": "demo", "BLOOM_SYNC_DIR": str(store), "PRIMARY_NODE_ID": "a"},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr, done
    told = json.loads(done.stderr.splitlines()[-1])
    assert told["codes"] == [0, 0, 3, 0, 0, 0, 0, 0], done
    assert sessions(databases["b"]) == {"from a"}  # the last pull, without --merge; what it replaced is kept
    assert (_tree(repository), _tree(home)) == (before, home_before)
    allowed = tuple(f"{tmp_path / name}" for name in ("a", "b", "store"))
    assert [each for each in told["seen"] if not each[1].startswith((*allowed, "/dev/null"))] == []
    assert any(event == "sqlite3.connect" for event, _ in told["seen"])
