"""Structured logs: one line per event, `key=value` for people or JSON for machines.

No log line holds a prompt, an output or a secret: callers pass ids, codes and counts. A key of ours that was pasted where it
does not belong, into the path of a request say, is cut all the same.
"""

import json
import logging
import re
import sys
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from bloom.base.errors import ConfigurationError
from bloom.base.log_file import LogFile
from bloom.base.settings import ProcessSettings

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the HTTP request being served; appears on each log line written while it is."""

_KEY = re.compile(r"(bloom_[a-z]+_)[A-Za-z0-9_-]{43}")
"""The form of `bloom.keys.model.make_key`."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    if (current := request_id.get()) is not None:
        fields["request_id"] = current
    return fields


class _HumanFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        pairs = "".join(f" {key}={value}" for key, value in _fields(record).items())
        line = (
            f"{clock} {record.levelname.lower():7} {record.name.removeprefix('bloom.')}: {record.getMessage()}{pairs}"
        )
        return _without_keys(f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line)


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": int(record.created * 1000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _without_keys(json.dumps(line, default=str, ensure_ascii=False))


def _without_keys(line: str) -> str:
    return _KEY.sub(r"\1…", line)


def configure_logging(settings: ProcessSettings) -> None:
    """Send this process's logs to stderr, or to the file that `settings` name: then stderr gets the errors alone.

    Raises ConfigurationError for a level that does not exist and a file that cannot be written.
    """
    number = logging.getLevelNamesMapping().get(settings.log_level.upper())
    if number is None:
        raise ConfigurationError("BLOOM_LOG_LEVEL must be one of debug, info, warning, error")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if settings.log_file is not None:
        handlers[0].setLevel(logging.ERROR)
        handlers.append(_open(settings, settings.log_file.expanduser()))
    for handler in handlers:
        handler.setFormatter(_JsonFormatter() if settings.log_format == "json" else _HumanFormatter())
    root = logging.getLogger()
    root.handlers[:] = handlers
    root.setLevel(number)
    # These speak of every request or statement; our own lines say what matters.
    for name in ("httpx", "httpcore", "uvicorn.access", "alembic"):
        logging.getLogger(name).setLevel(max(number, logging.WARNING))


def _open(settings: ProcessSettings, path: Path) -> LogFile:
    try:
        return LogFile(
            path,
            max_bytes=settings.log_max_bytes,
            keep_days=settings.log_keep_days,
            keep_files=settings.log_keep_files,
        )
    except OSError as error:
        raise ConfigurationError(
            f"BLOOM_LOG_FILE names a file that cannot be written ({error.strerror}): make its directory and let this user "
            "write there, or leave it out"
        ) from None
