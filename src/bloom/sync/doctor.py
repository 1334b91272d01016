"""Looks at each thing that sync needs and says in plain words what is wrong and what helps."""

import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import ValidationError

from bloom.base.errors import BloomError, ConfigurationError
from bloom.base.findings import Finding
from bloom.base.variables import describe_problem
from bloom.sync.copies import is_plain_current
from bloom.sync.errors import MembridgeRefused
from bloom.sync.node import Node, working
from bloom.sync.pull import Situation, look
from bloom.sync.push import describe
from bloom.sync.replacing import is_foreign
from bloom.sync.settings import SyncSettings
from bloom.sync.status import lock_in_force

_CHECK_MEMBRIDGE = "check MEMBRIDGE_URL and MEMBRIDGE_ADMIN_KEY"


def examine_settings(given: Mapping[str, Any]) -> list[Finding]:
    """All settings that are missing or wrong, at once; none when a node can be opened. `given` goes before the environment."""
    try:
        settings, found = SyncSettings(**given), list[Finding]()
    except ValidationError as error:
        wrong = dict(describe_problem(SyncSettings, each) for each in error.errors(include_input=False))
        found = [Finding(name, "problem", text, f"correct {name}") for name, text in wrong.items()]
        fields = SyncSettings.model_fields.values()
        usual = {str(each.validation_alias): each.get_default(call_default_factory=True) for each in fields}
        settings = SyncSettings(**{**given, **{name: usual[name] for name in wrong}})
    told = {each.name for each in found}
    needed = settings.missing()
    found += [Finding(name, "problem", "is not set", fix) for name, fix in needed.items() if name not in told]
    if not found:
        try:
            settings.open_store()
            if settings.membridge_url and settings.membridge_admin_key:
                from bloom.sync.service_client import MembridgeClient  # slow to import, and most syncs need no doctor

                MembridgeClient(settings.membridge_url, settings.membridge_admin_key.get_secret_value())
        except ConfigurationError as error:
            found.append(Finding("settings", "problem", error.message, "correct the setting that it names"))
    return found


async def examine(node: Node) -> list[Finding]:
    """Look at everything. Writes a small object into the store and removes it; raises Locked and OSError alone."""
    async with working(node):
        found = [
            _directory(node),
            await _guarded(
                "database", "check CLAUDE_MEM_DB; bloom sync restore brings an older version back", _database(node)
            ),
        ]
        store = await _guarded(
            "store", "check MINIO_ENDPOINT, MINIO_BUCKET and the keys, or BLOOM_SYNC_DIR", _store(node)
        )
        found.append(store)
        if store.verdict == "problem":
            return found
        found.append(await _guarded("conditional writes", "", _conditions(node)))
        situations: list[Situation] = []

        async def role() -> Finding:
            try:
                situations.append(await look(node, None))
            except MembridgeRefused as error:
                return Finding("Membridge", "problem", error.message, _CHECK_MEMBRIDGE)
            return _role(node, situations[0])

        found.append(await _guarded("role", "select a primary in Membridge, or set PRIMARY_NODE_ID", role))
        found += [_pointer(each) for each in situations]
        found.append(await _guarded("lock", "", _lock(node)))
        if situations and situations[0].bad_pointer is None:
            found.append(
                await _guarded("plain copy", "bloom sync push or pull repairs it", _plain(node, situations[0]))
            )
        return found


async def _guarded(name: str, fix: str, look_at: Callable[[], Awaitable[Finding]]) -> Finding:
    try:
        return await look_at()
    except BloomError as error:
        return Finding(name, "problem", error.message, fix)
    except OSError as error:
        return Finding(name, "problem", error.strerror or type(error).__name__, fix)


def _directory(node: Node) -> Finding:
    directory = node.files.database.parent
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        return Finding(
            "directory", "problem", f"{directory} cannot be written to", "check CLAUDE_MEM_DB and the permissions"
        )
    free = shutil.disk_usage(directory).free
    size = node.files.database.stat().st_size if node.files.database.exists() else 0
    if free < 4 * size:
        return Finding(
            "directory", "warning", f"{free >> 20} MiB free beside a memory of {size >> 20} MiB", "free disk space"
        )
    return Finding("directory", "ok", f"{directory} can be written to, {free >> 20} MiB are free")


def _database(node: Node) -> Callable[[], Awaitable[Finding]]:
    async def look_at() -> Finding:
        if is_foreign(node):
            text = f"{node.files.database} is not an SQLite database"
            return Finding("database", "problem", text, "check CLAUDE_MEM_DB")
        local = node.snapshot(as_file=True)
        if local is None:
            text = f"there is none at {node.files.database}"
            return Finding("database", "warning", text, "bloom sync pull, or check CLAUDE_MEM_DB")
        return Finding("database", "ok", f"sound: {describe(local)}")

    return look_at


def _store(node: Node) -> Callable[[], Awaitable[Finding]]:
    async def look_at() -> Finding:
        await node.store.check()
        return Finding("store", "ok", f"{node.settings.store_name} can be written to")

    return look_at


def _conditions(node: Node) -> Callable[[], Awaitable[Finding]]:
    async def look_at() -> Finding:
        if await node.conditions(anew=True):
            return Finding("conditional writes", "ok", "the store honours them")
        if node.service is not None:
            return Finding("conditional writes", "ok", "the store ignores them, which does not matter with Membridge")
        text = "the store ignores them: two nodes that push at the same moment are told apart afterwards only"
        return Finding("conditional writes", "warning", text, "set MEMBRIDGE_URL, or use a store that has them")

    return look_at


def _pointer(situation: Situation) -> Finding:
    bad, current = situation.bad_pointer, situation.current
    if bad is not None:
        fix = "on the primary: bloom sync push --force, or bloom sync restore VERSION (bloom sync history lists them)"
        return Finding("current version", "problem", bad.message, fix)
    return Finding("current version", "ok", "nothing has been pushed yet" if current is None else describe(current))


def _role(node: Node, situation: Situation) -> Finding:
    if situation.warning is not None:
        return Finding("Membridge", "problem", situation.warning, _CHECK_MEMBRIDGE)
    standing = situation.standing
    if situation.bad_lease is not None:
        fix = f"remove {node.keys.lease} from the bucket, then push from the node that PRIMARY_NODE_ID names"
        return Finding("role", "problem", situation.bad_lease.message, fix)
    text = f"{node.settings.node_id} is {standing.role}, says {standing.source}"
    if standing.epoch is not None:
        text += f", epoch {standing.epoch}"
    if standing.may_push or standing.primary is not None:
        return Finding("role", "ok", text + (f" ({standing.reason})" if standing.reason else ""))
    return Finding(
        "role", "warning", f"{text}: {standing.reason}", "select a primary in Membridge, or set PRIMARY_NODE_ID"
    )


def _lock(node: Node) -> Callable[[], Awaitable[Finding]]:
    async def look_at() -> Finding:
        lock = await lock_in_force(node)
        if lock is None:
            return Finding("lock", "ok", "no push is under way")
        if lock.owner == node.state.owner:
            return Finding("lock", "warning", "a push of this node was cut off", "bloom sync push takes its lock over")
        fix = "wait for it; if it was cut off, its lock ends by itself"
        return Finding("lock", "warning", f"{lock.hostname} is pushing, or was cut off", fix)

    return look_at


def _plain(node: Node, situation: Situation) -> Callable[[], Awaitable[Finding]]:
    async def look_at() -> Finding:
        current = situation.current
        if current is None:
            return Finding("plain copy", "ok", "nothing has been pushed yet")
        published = node.service is not None and situation.warning is None
        if current.key == node.keys.plain or await is_plain_current(
            node.store, node.keys, current, published=published
        ):
            return Finding("plain copy", "ok", "plain clients find the current version")
        return Finding(
            "plain copy", "warning", "plain clients find an older one, or refuse", "bloom sync push or pull repairs it"
        )

    return look_at
