"""`bloom key create`, `list`, `rotate` and `revoke`: what they ask of the runtime and how they show it."""

import secrets
import sys
import time
from dataclasses import dataclass
from typing import Any, cast

from bloom.base.errors import NotFound
from bloom.base.roles import Role
from bloom.cli.exits import ExitCode, report
from bloom.cli.pages import read_pages
from bloom.cli.session import parse, parse_list, run_command
from bloom.cli.tables import Cell, print_table
from bloom.cli.terminal import ago, clean_line, print_json, short_duration
from bloom.client import RuntimeClient, check_url, is_loopback, path_segment
from bloom.keys.model import KeyState
from bloom.keys.schemas import CreatedKey, KeyOut

_STATE_COLOURS = {KeyState.ACTIVE: "green", KeyState.REVOKED: "red"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The key that is to be made. `life_sec` None: as the runtime does by itself."""

    name: str | None
    role: str
    worker: str | None
    life_sec: int | None


def create(runtime: str | None, wanted: Wanted, *, join_url: str | None, as_json: bool) -> None:
    """Make a key: itself (or the command to join by it) goes to stdout, what is to be known of it to stderr."""
    url = None if join_url is None else check_url(join_url, "--url")

    async def command(client: RuntimeClient) -> ExitCode:
        body: dict[str, Any] = {"name": wanted.name or _made_up(wanted), "role": wanted.role}
        if wanted.worker is not None:
            body["worker_name"] = wanted.worker
        if wanted.life_sec is not None:
            body["expires_in_sec"] = wanted.life_sec
        answer = await client.request("POST", "/keys", json=body)
        made = parse(CreatedKey, answer)
        if as_json:
            print_json(answer)
        elif made.role is Role.JOIN:
            _show_token(made, url or client.url)
        else:
            print(made.key)
            _say(f"key {clean_line(made.name)} ({made.role}{_for_worker(made)}), {_life(made)}; shown this once")
            _say(f"revoke it: bloom key revoke {clean_line(made.name)}")
        if not made.asked_for and not as_json:
            _say(
                "this runtime asks nobody for a key (development mode): it counts once RUNTIME_API_KEY is set where it runs"
            )
        return ExitCode.DONE

    run_command(runtime, command, as_json=as_json)


def list_keys(runtime: str | None, *, everything: bool, as_json: bool) -> None:
    """Write the valid keys (or all) to stdout, newest first."""

    async def command(client: RuntimeClient) -> ExitCode:
        answers = [item for item in await read_pages(client, "/keys") if everything or _is_active(item)]
        if as_json:
            print_json(answers)
            return ExitCode.DONE
        keys = parse_list(KeyOut, answers)
        if keys:
            header = ["NAME", "ROLE", "WORKER", "STATE", "USED", "EXPIRES", "BEGINS WITH"]
            print_table(header, [_row(key) for key in keys])
        else:
            print("no keys yet" if everything else "no valid keys; --all shows the others")
        return ExitCode.DONE

    run_command(runtime, command, as_json=as_json)


def rotate(runtime: str | None, name: str, *, overlap_sec: int, life_sec: int | None, as_json: bool) -> None:
    """Give the key of this name or id a new secret: itself goes to stdout, what is to be known of it to stderr."""

    async def command(client: RuntimeClient) -> ExitCode:
        key = _by_name(await read_pages(client, "/keys")).get(name)
        if key is None:
            raise _no_such_key()
        body: dict[str, Any] = {"overlap_sec": overlap_sec}
        if life_sec is not None:
            body["expires_in_sec"] = life_sec
        answer = await client.request("POST", f"/keys/{path_segment(key.id)}/rotate", json=body)
        made = parse(CreatedKey, answer)
        if as_json:
            print_json(answer)
            return ExitCode.DONE
        print(made.key)
        until = made.previous_until or 0
        old = f"is taken for {_left(until)} more" if until / 1000 > time.time() else "is refused from now on"
        _say(f"key {clean_line(made.name)}: the new secret is {_life(made)}; the old one {old}; shown this once")
        return ExitCode.DONE

    run_command(runtime, command, as_json=as_json)


def revoke(runtime: str | None, names: list[str], *, as_json: bool) -> None:
    """Revoke each key by its id or name. The exit code is that of the first one there is none of; the others are revoked."""

    async def command(client: RuntimeClient) -> ExitCode:
        known = _by_name(await read_pages(client, "/keys"))
        worst = ExitCode.DONE
        outcomes: list[Any] = []
        for name in names:
            key = known.get(name)
            if key is None:
                error = _no_such_key()
                worst = ExitCode.NOT_FOUND
                outcomes.append({"error": error.message, "code": error.code})
                if not as_json:
                    report(error, as_json=False)
                continue
            outcomes.append(await client.request("DELETE", f"/keys/{path_segment(key.id)}"))
            if not as_json:
                print(f"{clean_line(key.name)} is revoked")
        if as_json:
            print_json(outcomes)
        return worst

    run_command(runtime, command, as_json=as_json)


def _by_name(answers: list[Any]) -> dict[str, KeyOut]:
    keys = parse_list(KeyOut, answers)
    return {key.name: key for key in keys} | {key.id: key for key in keys}


def _no_such_key() -> NotFound:
    # What was typed may be a key itself: it is not written anywhere.
    return NotFound("one of these is neither the name nor the id of a key")


def _is_active(item: Any) -> bool:
    return isinstance(item, dict) and cast("dict[str, Any]", item).get("state") == KeyState.ACTIVE


def _made_up(wanted: Wanted) -> str:
    return f"{(wanted.worker or wanted.role)[:119]}-{secrets.token_hex(4)}"


def _show_token(made: CreatedKey, url: str) -> None:
    print(f"bloom worker join {url} {made.key}")
    whom = f"as the worker {clean_line(made.worker_name)}" if made.worker_name else "as a worker of any new name"
    _say(f"run this on the new machine: it joins {whom}; works once, {_life(made)}")
    if is_loopback(url):
        _say(f"{url} names this machine only: put an address there under which the new machine reaches it (--url)")


def _for_worker(made: CreatedKey) -> str:
    return "" if made.worker_name is None else f" {clean_line(made.worker_name)}"


def _life(key: KeyOut) -> str:
    return "valid until it is revoked" if key.expires_at is None else f"valid for {_left(key.expires_at)}"


def _left(expires_at_ms: int) -> str:
    return short_duration(round(expires_at_ms / 1000 - time.time()))


def _row(key: KeyOut) -> list[str | Cell]:
    if key.expires_at is None:
        end = "never"
    else:
        end = f"in {_left(key.expires_at)}" if key.expires_at / 1000 > time.time() else ago(key.expires_at)
    return [
        key.name,
        key.role.value,
        key.worker_name or "-",
        Cell(key.state.replace("_", " "), _STATE_COLOURS.get(key.state, "dim")),
        ago(key.last_used_at),
        end,
        f"{key.starts_with}…",
    ]


def _say(text: str) -> None:
    print(text, file=sys.stderr)
