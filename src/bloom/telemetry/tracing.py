"""Traces of tasks by OpenTelemetry, from the request that creates one to the child that runs it.

Off, and nothing of OpenTelemetry's SDK imported, unless `OTEL_EXPORTER_OTLP_ENDPOINT` is set. A span's place is passed on as
a W3C traceparent (w3.org/TR/trace-context): it is kept with the task and given to its child. That happens without tracing
too, so that a caller's trace goes through a runtime that has none of its own.
"""

import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol

from bloom.base.errors import ConfigurationError

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"

Attributes = Mapping[str, str | int | float | bool]

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class _Exporter(Protocol):
    """What `bloom.telemetry.spans` offers once tracing is on."""

    def begin(self, name: str, parent: str | None, start_ns: int, attributes: Attributes) -> "Span": ...

    def close(self) -> None: ...


class Span(Protocol):
    """One span under way; its traceparent is the parent of what happens within it."""

    traceparent: str | None

    def end(self, end_ns: int, error: str | None) -> None: ...


_exporter: _Exporter | None = None


def begin_tracing(endpoint: str | None, service: str) -> None:
    """Send spans to the OTLP receiver at `endpoint` (None: nowhere) as `service`. OpenTelemetry reads its own variables.

    Raises ConfigurationError when its packages are not installed.
    """
    global _exporter
    if endpoint is None or _exporter is not None:
        return
    try:
        from bloom.telemetry.spans import OtlpExporter
    except ModuleNotFoundError:
        raise ConfigurationError(
            f"{ENDPOINT} is set, and what tracing needs is not installed: pip install 'bloom-runtime[tracing]'"
        ) from None
    _exporter = OtlpExporter(service)


def end_tracing() -> None:
    """Send what has not been sent, and trace nothing more."""
    global _exporter
    exporter, _exporter = _exporter, None
    if exporter is not None:
        exporter.close()


def tracing() -> bool:
    """Whether spans are recorded."""
    return _exporter is not None


def sane_traceparent(text: str | None) -> str | None:
    """`text` if it is a traceparent of version 00; any other is ignored, as the standard wants it."""
    return text if text is not None and _TRACEPARENT.fullmatch(text) else None


def record(name: str, parent: str | None, start: datetime, end: datetime, attributes: Attributes) -> None:
    """Record what has happened between two moments, below `parent`."""
    if _exporter is not None:
        _exporter.begin(name, parent, _ns(start), attributes).end(_ns(end), None)


@contextmanager
def span(name: str, parent: str | None, attributes: Attributes) -> Generator[str | None]:
    """A span around what is done within, below `parent` (None: a trace of its own); its traceparent, or `parent` while tracing
    is off.
    """
    if _exporter is None:
        yield parent
        return
    begun = _exporter.begin(name, parent, time.time_ns(), attributes)
    error: str | None = None
    try:
        yield begun.traceparent
    except BaseException as raised:
        # Its words may quote a prompt; its type does not.
        error = type(raised).__name__
        raise
    finally:
        begun.end(time.time_ns(), error)


def _ns(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000
