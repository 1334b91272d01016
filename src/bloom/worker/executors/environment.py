"""Which environment variables a child gets: those listed here and by the owner, and never a secret of BLOOM itself."""

from collections.abc import Iterable, Mapping

from bloom.worker.executors.interface import RunTask

_BASIC = (
    *("PATH", "HOME", "LANG", "LC_*", "USER", "LOGNAME", "SHELL", "TERM", "TZ", "TMPDIR", "XDG_*"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
)

CLAUDE = (
    # The owner's login and model,
    *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_CUSTOM_HEADERS"),
    *("ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "ANTHROPIC_DEFAULT_*_MODEL"),
    *("CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CONFIG_DIR"),
    # and settings of the CLI that hold no secret.
    *("CLAUDE_CODE_MAX_RETRIES", "API_TIMEOUT_MS", "CLAUDE_CODE_MAX_OUTPUT_TOKENS", "MAX_THINKING_TOKENS"),
    *("BASH_DEFAULT_TIMEOUT_MS", "BASH_MAX_TIMEOUT_MS", "MCP_TIMEOUT", "MCP_TOOL_TIMEOUT"),
    *("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_TELEMETRY", "DISABLE_ERROR_REPORTING"),
)
"""What the Claude CLI gets besides. Logins of Bedrock and Vertex only when `pass_env` lists them."""

_NEVER = (
    "BLOOM_API_KEY",
    "BLOOM_BACKUP_PASSPHRASE",
    "BLOOM_SECRET_KEY",
    "BLOOM_METRICS_KEY",
    "RUNTIME_API_KEY",
    "RUNTIME_API_KEY_PREVIOUS",
    "DATABASE_URL",
    "BLOOM_LISTEN_URL",
    "MINIO_*",
    "MEMBRIDGE_*",
)

_SECRET_NAMES = ("*KEY", "*TOKEN", "*SECRET", "*PASSWORD", "*CREDENTIALS", "*CUSTOM_HEADERS")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    for pattern in patterns:
        head, star, tail = pattern.partition("*")
        if name == pattern or (star and len(name) > len(head + tail) and name.startswith(head) and name.endswith(tail)):
            return True
    return False


def is_withheld(name: str) -> bool:
    """Whether the variable is a secret of BLOOM, which no child gets even if the owner lists it."""
    return _matches(name, _NEVER)


def child_environment(
    source: Mapping[str, str], *, pass_env: Iterable[str] = (), extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a child: from `source` the basic variables and those of `pass_env`, then `extra`.

    A name in `pass_env` may hold one `*`.
    """
    wanted = (*_BASIC, *pass_env)
    chosen = {name: value for name, value in source.items() if _matches(name, wanted)}
    return {name: value for name, value in (chosen | dict(extra or {})).items() if not is_withheld(name)}


def of_task(task: RunTask) -> dict[str, str]:
    """What a child is told of its task. An environment carries neither NUL nor a lone surrogate."""
    told = {
        "BLOOM_TASK_ID": task.task_id,
        "BLOOM_CONTEXT_ID": task.context_id,
        "BLOOM_AGENT_SLUG": task.agent_slug,
        "BLOOM_DESIRED_FORMAT": task.desired_format,
        "BLOOM_REQUEST_ID": task.request_id,
        "TRACEPARENT": task.traceparent,
    }
    return {
        name: value.encode(errors="replace").decode().replace("\x00", "")
        for name, value in told.items()
        if value is not None
    }


def secrets_in(environment: Mapping[str, str]) -> list[str]:
    """The values of variables whose name says that they are secret: to be masked in what a child says."""
    return [value for name, value in environment.items() if _matches(name.upper(), _SECRET_NAMES)]
