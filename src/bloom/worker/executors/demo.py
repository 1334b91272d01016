"""The built-in demo: answers without any model, so that the whole way of a task can be seen before anything is set up.

Run by the `command` executor as `python -m bloom.worker.executors.demo`.
"""

import json
import os
import sys
import time

SHOWN_CHARS = 60
_WORD_SEC = 0.02


def answer(prompt: str) -> str:
    """What the demo says to `prompt`."""
    start = " ".join(prompt.split())
    shown = start if len(start) <= SHOWN_CHARS else f"{start[:SHOWN_CHARS]}…"
    return (
        f"This is BLOOM's built-in demo, no model: it received “{shown}” ({len(prompt)} characters). "
        "For real answers install the Claude CLI on this worker (npm install -g @anthropic-ai/claude-code), "
        "run `claude` once to log in, and start the worker again."
    )


def main() -> None:
    """Read a prompt on stdin and answer it on stdout, word by word; as JSON when BLOOM_DESIRED_FORMAT says so."""
    sys.stdout.reconfigure(encoding="utf-8")  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
    text = answer(sys.stdin.buffer.read().decode(errors="replace"))
    if os.environ.get("BLOOM_DESIRED_FORMAT") == "json":
        text = json.dumps({"demo": True, "model": None, "answer": text}, ensure_ascii=False)
    for word in text.split(" "):
        sys.stdout.write(word if word is text.split(" ")[-1] else f"{word} ")
        sys.stdout.flush()
        time.sleep(_WORD_SEC)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
