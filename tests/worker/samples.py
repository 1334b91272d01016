"""Recorded output of the Claude CLI 2.1.197 (`claude_samples/NAME.jsonl`), run against a stub of the Messages API."""

from pathlib import Path

from bloom.worker.executors.claude_stream import StreamDecoder
from bloom.worker.executors.claude_transcript import Transcript
from bloom.worker.executors.interface import RunEvent

DIRECTORY = Path(__file__).with_name("claude_samples")


def sample(name: str) -> bytes:
    """The bytes of one sample."""
    return (DIRECTORY / f"{name}.jsonl").read_bytes()


def read(stream: bytes) -> tuple[Transcript, list[RunEvent]]:
    """What a transcript makes of `stream`, and the events it tells."""
    transcript = Transcript()
    decoder = StreamDecoder()
    events = [event for line in (*decoder.feed(stream), *decoder.finish()) for event in transcript.take(line)]
    return transcript, events
