"""What a run of the Claude CLI cost, as the metrics of its report."""

from collections.abc import Iterable, Mapping
from typing import Any, cast

from bloom.worker.executors.claude_transcript import Transcript

_TOKENS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_OF_MODEL = ("inputTokens", "outputTokens", "cacheCreationInputTokens", "cacheReadInputTokens")


def metrics_of(transcript: Transcript, *, resumed: bool, forked: bool) -> dict[str, Any]:
    """Tokens, cost (US dollars), turns, time at the API, session and model; None where the CLI did not say.

    `tokens_used` is input and output together, what was written to and read from the cache included.
    """
    result: Mapping[str, Any] = transcript.result or {}
    tokens = _tokens(transcript, result)
    denials: Any = result.get("permission_denials")
    return {
        "tokens_used": sum(tokens.values()) if tokens else None,
        **tokens,
        "cost_usd": result.get("total_cost_usd"),
        "num_turns": result.get("num_turns"),
        "api_duration_ms": result.get("duration_api_ms"),
        "session_id": transcript.session_id,
        "model": transcript.model,
        "resumed": resumed,
        "forked": forked,
        "permission_denials": len(cast(list[Any], denials)) if isinstance(denials, list) else 0,
    }


def _tokens(transcript: Transcript, result: Mapping[str, Any]) -> dict[str, int]:
    """From the result; where that says nothing or zero (an answer sent again unstreamed), per model, or as streamed."""
    models: Any = result.get("modelUsage")
    per_model = cast(Mapping[str, Any], models).values() if isinstance(models, dict) else ()
    for source, names in ([result.get("usage")], _TOKENS), (per_model, _OF_MODEL), ([transcript.usage], _TOKENS):
        counts = _sum(source, names)
        if any(counts.values()):
            return counts
    return {}


def _sum(usages: Iterable[Any], names: tuple[str, ...]) -> dict[str, int]:
    counts: dict[str, int] = dict.fromkeys(_TOKENS, 0)
    for usage in usages:
        for ours, theirs in zip(_TOKENS, names, strict=True):
            value: Any = cast(Mapping[str, Any], usage).get(theirs) if isinstance(usage, dict) else None
            counts[ours] += value if isinstance(value, int) else 0
    return counts
