"""A machine that joins: what it is told by the runtime, and who it belongs to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import CREATED_MS, Answer

from bloom.cli import joining
from bloom.cli.machine import Init, Person

TOKEN = "bloom_join_" + 43 * "t"
KEY = "bloom_worker_" + 43 * "k"


def joined(worker_name: str = "pi4", **changed: Any) -> Answer:
    """The answer to an exchange."""
    fields: dict[str, Any] = {
        "id": "id",
        "name": f"{worker_name}-1a2b",
        "role": "worker",
        "worker_name": worker_name,
        "starts_with": KEY[:17],
        "state": "active",
        "created_at": CREATED_MS,
        "created_by": "key:token",
        "expires_at": None,
        "last_used_at": None,
        "used_up_at": None,
        "revoked_at": None,
        "key": KEY,
        "asked_for": True,
        **changed,
    }
    return Answer(fields, 201)


def always(answer: object) -> Callable[..., object]:
    """A function that answers this, whatever it is asked."""

    def answers(*_: object) -> object:
        return answer

    return answers


def person(home: Path, *, uid: int = 1000, by_root: bool = False) -> Person:
    return Person("pi", uid, uid, home, by_root=by_root)


def manage_services_by(monkeypatch: pytest.MonkeyPatch, init: Init | None) -> None:
    monkeypatch.setattr(joining, "init_system", always(init))


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777
