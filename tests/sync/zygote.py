"""Runs `bloom` as processes that need no start of their own: this one has imported everything, and forks.

It reads requests from stdin, one JSON object a line, and answers each on stdout when the process it is about has stopped
or ended: `{"argv", "environment", "output", "file_limit"}` starts one, `{"pid", "signal"}` sends it a signal.
"""

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import sys
from typing import Any

_MODULES = (
    "bloom.blobs.local",
    "bloom.blobs.open",
    "bloom.blobs.probe",
    "bloom.cli.main",
    "bloom.cli.sync_views",
    "bloom.sync.merge",
    "bloom.sync.service_remote",
    "encodings.idna",
)


def _start(request: dict[str, Any]) -> int:
    if pid := os.fork():
        return pid
    os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{request['output']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    if request["file_limit"] is not None:  # writes beyond it fail, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], request["file_limit"]))
    sys.argv = ["bloom", *request["argv"]]
    with contextlib.suppress(SystemExit):
        importlib.import_module("bloom.cli.main").main()
    os._exit(70)  # main ends the process itself once obstore was used


def _main() -> None:
    for module in _MODULES:
        importlib.import_module(module)
    gc.freeze()  # what the children share stays shared
    _answer(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "signal" in request:
            pid = request["pid"]
            os.kill(pid, request["signal"])
        else:
            pid = _start(request)
        _, status = os.waitpid(pid, os.WUNTRACED)
        stopped = os.WIFSTOPPED(status)
        code = None if stopped else os.waitstatus_to_exitcode(status)
        _answer(pid=pid, stopped=stopped, code=code)


def _answer(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _main()
