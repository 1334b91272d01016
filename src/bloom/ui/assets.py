"""The files that pages load: style, scripts, and the front-end libraries that the build brings (`hatch_build.py`)."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

LIBRARIES = ("htmx.min.js", "sse.min.js", "idiomorph-ext.min.js")
"""In the order in which pages load them."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file, and the part of its address that changes with its content."""

    content: bytes
    media_type: str
    mark: str


@cache
def assets() -> dict[str, Asset]:
    """All there are, by name."""
    folder = files("bloom.ui").joinpath("static")
    vendor = folder.joinpath("vendor")
    found = [*folder.iterdir(), *(vendor.iterdir() if vendor.is_dir() else ())]
    return {file.name: _read(file) for file in found if file.is_file() and _suffix(file.name) in _KINDS}


def missing_libraries() -> list[str]:
    """The libraries that the build could not bring: pages then work without live updates."""
    return [name for name in LIBRARIES if name not in assets()]


def _read(file: Traversable) -> Asset:
    content = file.read_bytes()
    return Asset(content, _KINDS[_suffix(file.name)], hashlib.sha256(content).hexdigest()[:12])


def _suffix(name: str) -> str:
    return name[name.rfind(".") :] if "." in name else ""
