"""The entries of Claude Code's `settings.json` that run `bloom sync hook`, put in and taken out again.

Form of the file: https://docs.claude.com/en/docs/claude-code/hooks. `hooks` maps an event to groups, each with its own
hooks; ours are groups of one hook, so that nothing of the owner's stands in them. All else in the file stays as it is; a
file in another layout than two-space JSON is only laid out anew where that cannot be helped.
"""

import json
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bloom.base.errors import ConfigurationError

TIMEOUT_SEC = 10
"""What Claude Code gives the hook before it ends it; ours is done in well under a second."""

_BACKUP_SUFFIX = ".before-bloom"

Json = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """What became of the settings file. `hints`: what the owner should know, a sentence each."""

    path: Path
    changed: bool
    hints: tuple[str, ...] = ()


def settings_path() -> Path:
    """The user's settings of Claude Code: in `CLAUDE_CONFIG_DIR`, else in `~/.claude`."""
    configured = os.environ.get("CLAUDE_CONFIG_DIR")
    return (Path(configured).expanduser() if configured else Path.home() / ".claude") / "settings.json"


def install_hooks(path: Path, python: str = sys.executable) -> Change:
    """Put our entries into the settings at `path`, once, however often this is called; the first time with a backup.

    Raises ConfigurationError if the file is not JSON of the form that Claude Code reads, or was changed meanwhile; OSError.
    """
    path = path.resolve()  # a link is often one into a repository of settings: what it leads to is changed
    before = _read(path)
    settings = _parse(path, before)
    wanted = {
        "SessionStart": {"matcher": "startup|resume", "hooks": [_entry(python, "session-start")]},
        "Stop": {"hooks": [_entry(python, "stop")]},
        "SessionEnd": {"hooks": [_entry(python, "session-end")]},
    }
    hints = _hints(settings)
    if all(_our_groups(settings, event) == [group] for event, group in wanted.items()):
        return Change(path, changed=False, hints=hints)
    _take_out(settings)
    for event, group in wanted.items():
        settings.setdefault("hooks", {}).setdefault(event, []).append(group)
    backup = _backup_of(path)
    if before is not None and not _take_out(_parse(path, before)):
        _write(backup, before, like=path)
    elif before is None:
        backup.unlink(missing_ok=True)
    _replace(path, before, settings)
    return Change(path, changed=True, hints=hints)


def uninstall_hooks(path: Path) -> Change:
    """Take exactly our entries out of the settings at `path`. Raises as `install_hooks`.

    Where nothing else has changed since, the file is what it was before, byte for byte; one that we made is removed.
    """
    path = path.resolve()
    before = _read(path)
    settings = _parse(path, before)
    if before is None or not _take_out(settings):
        return Change(path, changed=False)
    backup = _backup_of(path)
    original = _read(backup)
    if original is not None and _bare(_parse(backup, original)) == _bare(settings):
        _check_unchanged(path, before)
        _write(path, original, like=path)
    elif original is None and not settings:
        path.unlink()
    else:
        _replace(path, before, settings)
    backup.unlink(missing_ok=True)
    return Change(path, changed=True)


def _entry(python: str, event: str) -> Json:
    # Even where this installation is gone, no session is held up: to Claude Code exit code 2 means "do not stop".
    command = f"{shlex.quote(python)} -m bloom sync hook {event} || true"
    return {"type": "command", "command": command, "timeout": TIMEOUT_SEC}


def _is_ours(hook: object) -> bool:
    command = cast("Json", hook).get("command") if isinstance(hook, dict) else None
    try:
        words = shlex.split(command) if isinstance(command, str) else []
    except ValueError:  # a quotation without an end
        return False
    # Whatever Python it is: another installation's takes its place.
    return words[1:5] == ["-m", "bloom", "sync", "hook"] and words[6:] == ["||", "true"]


def _groups(settings: Json, event: str) -> list[Any]:
    return settings.get("hooks", {}).get(event, [])


def _our_groups(settings: Json, event: str) -> list[Any]:
    return [group for group in _groups(settings, event) if any(_is_ours(hook) for hook in group["hooks"])]


def _take_out(settings: Json) -> bool:
    """Remove our hooks, and of what holds them only what is empty by that; whether there were any."""
    found = False
    hooks: Json = settings.get("hooks", {})
    for event in list(hooks):
        groups, ours = hooks[event], _our_groups(settings, event)
        found = found or bool(ours)
        for group in ours:
            group["hooks"][:] = [hook for hook in group["hooks"] if not _is_ours(hook)]
            if not group["hooks"]:
                groups.remove(group)
        if ours and not groups:
            del hooks[event]
    if found and not hooks:
        del settings["hooks"]
    return found


def _bare(settings: Json) -> Json:
    """`settings` without lists of hooks that are empty: they say the same as none."""
    hooks = {event: groups for event, groups in settings.get("hooks", {}).items() if groups}
    others = {name: value for name, value in settings.items() if name != "hooks"}
    return {**others, "hooks": hooks} if hooks else others


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parse(path: Path, content: bytes | None) -> Json:
    """The settings in `content`; of what is not understood nothing is guessed. Raises ConfigurationError."""
    if content is None or not content.strip():
        return {}
    try:
        settings: object = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise ConfigurationError(f"{path} is not valid JSON ({error}); correct it first, nothing was changed") from None
    hooks = cast("Json", settings).get("hooks", {}) if isinstance(settings, dict) else None
    groups = cast("Json", hooks).values() if isinstance(hooks, dict) else [None]
    for group in (
        group for event in groups for group in (cast("list[object]", event) if isinstance(event, list) else [None])
    ):
        if not isinstance(group, dict) or not isinstance(cast("Json", group).get("hooks"), list):
            raise ConfigurationError(
                f"{path}: its hooks are not of the form that Claude Code reads; nothing was changed"
            )
    if not isinstance(hooks, dict):
        raise ConfigurationError(f"{path}: it is not of the form that Claude Code reads; nothing was changed")
    return cast("Json", settings)


def _without_repeats(pairs: list[tuple[str, Any]]) -> Json:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return table


def _hints(settings: Json) -> tuple[str, ...]:
    hints: list[str] = []
    if settings.get("disableAllHooks") is True:
        hints.append("disableAllHooks is set in these settings, so Claude Code runs no hook")
    own = settings.get("env")
    told = {*os.environ, *(cast("Json", own) if isinstance(own, dict) else ())}
    if "CLAUDE_PROJECT_ID" not in told or not told & {"MINIO_ENDPOINT", "BLOOM_SYNC_DIR"}:
        hints.append(
            "the hooks need CLAUDE_PROJECT_ID and a store (MINIO_ENDPOINT or BLOOM_SYNC_DIR) in the environment of Claude "
            'Code, or under "env" in these settings'
        )
    return tuple(hints)


def _replace(path: Path, before: bytes | None, settings: Json) -> None:
    text = (before or b"").decode("utf-8-sig")
    indent = re.search(r"\n([ \t]+)\S", text)
    unit = indent.group(1) if indent else "  "
    new = json.dumps(settings, indent=unit if "\t" in unit else len(unit), ensure_ascii=False)
    new += "\n" if before is None or text.endswith("\n") else ""
    if "\r\n" in text:
        new = new.replace("\n", "\r\n")
    try:
        content = new.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can write
        content = json.dumps(settings, indent=2).encode() + b"\n"
    _check_unchanged(path, before)
    _write(path, (b"\xef\xbb\xbf" if (before or b"").startswith(b"\xef\xbb\xbf") else b"") + content, like=path)


def _check_unchanged(path: Path, before: bytes | None) -> None:
    if _read(path) != before:
        raise ConfigurationError(f"{path} was changed by another program just now; nothing was changed, try again")


def _write(path: Path, content: bytes, *, like: Path) -> None:
    """Put `content` at `path` in one step and on the disk, with the rights of `like`, or for its user alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = like.stat().st_mode & 0o777 if like.exists() else 0o600
    new = path.with_name(f"{path.name}.bloom-new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    new.replace(path)


def _backup_of(path: Path) -> Path:
    return path.with_name(path.name + _BACKUP_SUFFIX)
