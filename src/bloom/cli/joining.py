"""The steps of `bloom worker join`. What can go wrong is looked for before the token is used up."""

import asyncio
import os
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import typer

from bloom.base.errors import BloomError, ConfigurationError
from bloom.base.roles import Role
from bloom.cli.claude_login import describe_claude
from bloom.cli.machine import Person, acting_as, init_system, this_person
from bloom.cli.service_files import NoService, plan_service, write_service
from bloom.cli.session import parse
from bloom.cli.terminal import clean_line, is_terminal
from bloom.client import RuntimeClient, RuntimeRefused, RuntimeUnreachable, check_url, is_loopback
from bloom.keys.model import has_form_of_key
from bloom.keys.schemas import CreatedKey
from bloom.worker.config import CONFIG_FILE, WorkerConfig, load_worker_config
from bloom.worker.joined import store_key, write_config
from bloom.worker.options import WORKER_DIR_VARIABLE, worker_dir

_LONGEST_NAME = 128


@dataclass(frozen=True)
class Wish:
    """What the command line asks for."""

    url: str
    token: str = field(repr=False)
    name: str | None
    slots: int
    user: str | None
    service: Literal["yes", "no", "ask"]


def join_runtime(wish: Wish) -> None:
    """Join, and tell on stdout what was written where and what comes next.

    Raises a BloomError before anything was changed; the message of one that comes after the token was used up says so.
    """
    url = check_url(wish.url, "URL")
    token = _checked_token(wish.token)
    person = this_person(wish.user)
    directory = worker_dir(person.home)
    if url.startswith("http:") and not is_loopback(url):
        _warn(f"{url} is not encrypted: whoever is on the way can read the key; https is better")
    with acting_as(person):
        config = _prepare(directory, url, wish)
    made = asyncio.run(_exchange(url, token, wish.name or (config and config.name)))
    worker_name = str(made.worker_name)
    try:
        with acting_as(person):
            key_file = store_key(directory, made.key)
            config_file = None if config else write_config(directory, runtime=url, name=worker_name, slots=wish.slots)
    except OSError as error:
        raise BloomError(
            f"the token is used up, but the key cannot be stored ({error.strerror}): revoke it on the runtime "
            f"(bloom key revoke {clean_line(made.name)}), make room, and join with a new token"
        ) from None
    print(f"This machine is the worker {clean_line(worker_name)} of {url} now.")
    _tell("key", f"{key_file} ({clean_line(made.name)}; nobody else can read it)")
    _tell("config", f"{config_file or directory / CONFIG_FILE}{'' if config_file else ' (was there, stays as it is)'}")
    if not made.asked_for:
        _tell("note", "this runtime asks nobody for a key yet (development mode)")
    with acting_as(person):
        claude = describe_claude(config or WorkerConfig(), person, os.environ)
    for line in claude:
        _tell("claude", line)
    _offer_service(wish, person, directory, worker_name)


def _checked_token(given: str) -> str:
    token = (sys.stdin.readline(4096) if given == "-" else given).strip()
    if not has_form_of_key(token):
        raise ConfigurationError(
            f"TOKEN is not a join token: those begin with bloom_{Role.JOIN}_; `bloom key create --join` makes one"
        )
    role = token.split("_")[1]
    if role != Role.JOIN:
        raise ConfigurationError(
            f"this is a key with the role {role}, not a join token; `bloom key create --join` makes one"
        )
    return token


def _prepare(directory: Path, url: str, wish: Wish) -> WorkerConfig | None:
    """Make the directory; the config that is there already, None for none.

    Raises ConfigurationError for a directory that cannot be used, and for a config of another worker.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(directory, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
    except OSError as error:
        raise ConfigurationError(f"the worker directory cannot be made ({error.strerror})") from None
    if not usable:
        raise ConfigurationError(f"the worker directory cannot be written; set {WORKER_DIR_VARIABLE} to another one")
    if not (directory / CONFIG_FILE).exists():
        return None
    config = load_worker_config(directory / CONFIG_FILE)
    if config.runtime is None or config.name is None:
        name = wish.name or config.name or _hostname() or "..."
        raise ConfigurationError(
            f"{CONFIG_FILE} is there already, and is left as it is; put these lines at its top and join again: "
            f'runtime = "{url}" and name = "{name}"'
        )
    if config.runtime != url or wish.name not in (None, config.name):
        raise ConfigurationError(
            f"{CONFIG_FILE} is there already, for the worker {config.name} of {config.runtime}; change it, or set "
            f"{WORKER_DIR_VARIABLE} to another directory for another worker"
        )
    return config


async def _exchange(url: str, token: str, name: str | None) -> CreatedKey:
    body: dict[str, Any] = {"hostname": _hostname()} if name is None else {"name": name}
    async with RuntimeClient(url, token) as client:
        try:
            return parse(CreatedKey, await client.request("POST", "/keys/join", json=body))
        except RuntimeRefused as error:
            if error.status == 401:
                error.code = "join_token_invalid"
                error.message = "the runtime does not take this join token: it was used up or revoked, or has expired"
            raise
        except RuntimeUnreachable as error:
            if error.maybe_received:
                error.message += "; if the token was used up meanwhile, have a new one made"
            raise


def _hostname() -> str | None:
    """This machine's name as that of a worker; None when it cannot be one."""
    name = socket.gethostname().strip()[:_LONGEST_NAME]
    return name if name and name.isprintable() else None


def _offer_service(wish: Wish, person: Person, directory: Path, worker_name: str) -> None:
    by_hand = "bloom worker"
    if os.environ.get(WORKER_DIR_VARIABLE):
        by_hand = f"{WORKER_DIR_VARIABLE}={directory} {by_hand}"
    if person.is_root_for_another:
        by_hand = f"as {person.name}: {by_hand}"
    plan = (
        NoService("not asked for")
        if wish.service == "no"
        else plan_service(person, directory, worker_name, init_system(), os.environ)
    )
    if isinstance(plan, NoService):
        _tell("service", f"none ({plan.reason})")
        _tell("start", by_hand)
        return
    if wish.service == "ask" and not _agrees(f"Write {plan.path}, so that {plan.manager} can run the worker?"):
        _tell("service", "none; `--yes` writes one")
        _tell("start", by_hand)
        return
    try:
        with acting_as(person) if plan.as_person else acting_as(None):
            write_service(plan)
    except OSError as error:
        _warn(f"{plan.path} cannot be written ({error.strerror})")
        _tell("start", by_hand)
        return
    _tell("service", str(plan.path))
    for command in plan.commands:
        _tell("start", command)


def _agrees(question: str) -> bool:
    if not is_terminal(sys.stdin):
        return False
    return typer.confirm(question, default=True, err=True)


def _tell(what: str, text: str) -> None:
    print(f"  {what:<9}{text}")


def _warn(text: str) -> None:
    print(f"bloom: {text}", file=sys.stderr)
