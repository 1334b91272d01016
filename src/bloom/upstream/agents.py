"""Reads Membridge's list of agents, whoever wrote it: what is of no use is left out and counted."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

from pydantic import Field, StrictFloat, StrictInt, TypeAdapter, ValidationError

from bloom.base.ids import WorkerId
from bloom.workers.model import ListedWorker, WorkerStatus
from bloom.workers.schemas import RegisterWorker

MOST_AGENTS = 1000
"""More than that are not people's machines."""

_LONGEST_AGE_SEC = 10 * 365 * 86_400.0
_FUTURE_SEC = 3600.0
"""Who was seen later than this by Membridge's own clock would never be offline."""

_STATES = frozenset(WorkerStatus)
_LastSeen = TypeAdapter(Annotated[StrictFloat | StrictInt, Field(allow_inf_nan=False)])


def read_agents(value: Any, *, now: float) -> tuple[list[ListedWorker], int] | None:
    """The workers of the JSON `value`, `[..]` or `{"agents": [..]}`, each name once, and how many entries were left out.

    None when it is no list of agents. `now` is Membridge's clock, in epoch seconds as its `last_seen`: the clocks of two
    machines are never compared. An entry without `last_seen` was seen now.
    """
    if isinstance(value, dict):
        value = cast("dict[str, Any]", value).get("agents")
    if not isinstance(value, list):
        return None
    entries = cast("list[Any]", value)
    found: dict[WorkerId, ListedWorker] = {}
    skipped = max(len(entries) - MOST_AGENTS, 0)
    for entry in entries[:MOST_AGENTS]:
        agent = _read(cast("dict[str, Any]", entry), now) if isinstance(entry, dict) else None
        if agent is None or agent.id in found:
            skipped += 1
        else:
            found[agent.id] = agent
    return list(found.values()), skipped


def _read(entry: Mapping[str, Any], now: float) -> ListedWorker | None:
    fields = {name: entry.get(name) for name in ("name", "url", "capabilities")}
    try:
        agent = RegisterWorker.model_validate({name: given for name, given in fields.items() if given is not None})
        last_seen = entry.get("last_seen")
        age = 0.0 if last_seen is None else now - _LastSeen.validate_python(last_seen)
    except (ValidationError, OverflowError):
        return None
    if age < -_FUTURE_SEC or (agent.url is not None and not agent.url.startswith(("http://", "https://"))):
        return None
    named = agent.capabilities.model_fields_set
    status = entry.get("status")
    return ListedWorker(
        id=WorkerId(agent.name),
        url=agent.url,
        status=WorkerStatus(status) if isinstance(status, str) and status in _STATES else None,
        claude_cli=agent.capabilities.claude_cli if "claude_cli" in named else None,
        max_concurrency=agent.capabilities.max_concurrency if "max_concurrency" in named else None,
        labels=agent.capabilities.labels if "labels" in named else None,
        age_sec=min(max(age, 0.0), _LONGEST_AGE_SEC),
    )
