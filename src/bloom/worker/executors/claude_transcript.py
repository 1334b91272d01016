"""The objects of one CLI run, reduced to what happened: events for those who watch, facts for the report."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from bloom.worker.executors.interface import RunEvent
from bloom.worker.executors.narration import cut_input, cut_text

SYNTHETIC = "<synthetic>"
"""The model of messages that the CLI makes up, to tell of an error."""


@dataclass
class _Message:
    """The message of the main thread that is being streamed."""

    id: str
    texts: list[str] = field(default_factory=list[str])
    stop_reason: str | None = None
    whole: bool = False


class Transcript:
    """Facts of one run. Reads as far as it understands; what it does not know it passes over."""

    def __init__(self) -> None:
        self.session_id: str | None = None
        self.model: str | None = None
        self.last_message_id: str | None = None
        self.result: Mapping[str, Any] | None = None
        self.error_kind: str | None = None
        self.rate_limit: Mapping[str, Any] = {}
        self.last_retry: Mapping[str, Any] = {}
        self.usage: dict[str, int] = {}
        self._message: _Message | None = None
        self._head = ""

    @property
    def cut_off(self) -> bool:
        """Whether the last message of the main thread was begun and never finished.

        The CLI then still says success when the stream ended early but tidily behind a block of content (2.1.197: exit
        0, is_error false). Where no block was finished before the cut it asks again without streaming; the message
        that it then gets is whole.
        """
        return self._message is not None and not self._message.whole

    @property
    def output(self) -> str:
        """The answer. `result` holds the last message only: parts that ended at the output limit come before it."""
        last: Any = (self.result or {}).get("result")
        return self._head + (last if isinstance(last, str) else "")

    def take(self, line: Mapping[str, Any]) -> Iterator[RunEvent]:
        """Take in one object and say what of it is worth telling."""
        match line.get("type"):
            case "system":
                yield from self._system(line)
            case "stream_event":
                yield from self._stream_event(line)
            case "assistant":
                yield from self._assistant(line)
            case "user":
                yield from _tool_results(line)
            case "rate_limit_event":
                self.rate_limit = _mapping(line.get("rate_limit_info"))
                yield RunEvent("rate_limit", _rate_limit_data(self.rate_limit))
            case "result":
                self.result = line
                self.session_id = line.get("session_id") or self.session_id
            case _:
                pass

    def _system(self, line: Mapping[str, Any]) -> Iterator[RunEvent]:
        match line.get("subtype"):
            case "init":
                self.session_id = line.get("session_id")
                self.model = line.get("model")
                yield RunEvent("status", {"state": "started", "session_id": self.session_id, "model": self.model})
            case "api_retry":
                self.last_retry = line
                keys = ("attempt", "max_retries", "retry_delay_ms", "error_status", "error")
                yield RunEvent("retry", {key: line.get(key) for key in keys})
            case _:
                pass

    def _stream_event(self, line: Mapping[str, Any]) -> Iterator[RunEvent]:
        if line.get("parent_tool_use_id") is not None:
            return
        event = _mapping(line.get("event"))
        delta = _mapping(event.get("delta"))
        match event.get("type"):
            case "message_start":
                self._begin(_Message(str(_mapping(event.get("message")).get("id"))))
                self._count(_mapping(_mapping(event.get("message")).get("usage")), but="output_tokens")
            case "content_block_delta" if delta.get("type") == "text_delta":
                text = str(delta.get("text", ""))
                if self._message is not None:
                    self._message.texts.append(text)
                yield RunEvent("text", {"text": text})
            case "content_block_delta" if delta.get("type") == "thinking_delta":
                yield RunEvent("thinking", {"text": str(delta.get("thinking", ""))})
            case "message_delta" if self._message is not None:
                self._message.stop_reason = delta.get("stop_reason")
                self._count({"output_tokens": _mapping(event.get("usage")).get("output_tokens")})
            case "message_stop" if self._message is not None:
                self._message.whole = self._message.stop_reason is not None
            case _:
                pass

    def _begin(self, message: _Message) -> None:
        before = self._message
        if before is not None and before.whole and before.stop_reason == "max_tokens":
            self._head += "".join(before.texts)
        elif before is not None and before.whole:
            self._head = ""
        self._message = message

    def _count(self, usage: Mapping[str, Any], but: str = "") -> None:
        for key, value in usage.items():
            if key.endswith("_tokens") and key != but and isinstance(value, int):
                self.usage[key] = self.usage.get(key, 0) + value

    def _assistant(self, line: Mapping[str, Any]) -> Iterator[RunEvent]:
        parent = line.get("parent_tool_use_id")
        message = _mapping(line.get("message"))
        if parent is None and (line.get("error") or message.get("model") == SYNTHETIC):
            self.error_kind = str(line.get("error") or "unknown")
            return
        if parent is None:
            self.last_message_id = line.get("uuid")
        streamed = self._message is not None and self._message.id == message.get("id")
        if parent is None and not streamed:
            # It came in one piece: in place of a stream that broke, or because nothing is streamed.
            if self.cut_off:
                yield RunEvent("status", {"state": "restarted", "message": "the answer broke off and is sent again"})
            self._begin(_Message(str(message.get("id")), stop_reason=message.get("stop_reason"), whole=True))
        for block in _blocks(message):
            match block.get("type"):
                case "text" if parent is None and not streamed:
                    text = str(block.get("text", ""))
                    if self._message is not None:
                        self._message.texts.append(text)
                    yield RunEvent("text", {"text": text})
                case "tool_use":
                    used = {"id": block.get("id"), "name": block.get("name"), "input": cut_input(block.get("input"))}
                    yield RunEvent("tool_use", used if parent is None else {**used, "parent_id": parent})
                case _:
                    pass


def _tool_results(line: Mapping[str, Any]) -> Iterator[RunEvent]:
    parent = line.get("parent_tool_use_id")
    for block in _blocks(_mapping(line.get("message"))):
        if block.get("type") == "tool_result":
            told = {"id": block.get("tool_use_id"), "is_error": bool(block.get("is_error"))}
            told |= cut_text(_text_of(block.get("content")))
            yield RunEvent("tool_result", told if parent is None else {**told, "parent_id": parent})


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = _blocks({"content": content})
    return "\n".join(str(block.get("text", f"[{block.get('type')}]")) for block in blocks)


def _rate_limit_data(info: Mapping[str, Any]) -> dict[str, Any]:
    resets_at = info.get("resetsAt")
    return {
        "status": info.get("status"),
        "limit": info.get("rateLimitType"),
        "resets_at": int(resets_at * 1000) if isinstance(resets_at, int | float) else None,
        "utilization": info.get("utilization"),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], value) if isinstance(value, dict) else {}


def _blocks(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content: Any = message.get("content")
    return [_mapping(block) for block in cast(list[Any], content)] if isinstance(content, list) else []
