"""(e) What a fleet costs that has nothing to do: 1,000 workers, each with one long poll open."""

import resource
from functools import partial

from bench.figures import Figure, Section, Target
from bench.load.idle import WAIT_SEC
from bench.plan import Plan
from bench.runs import load
from bench.stack import Stack
from bloom.base.settings import ServerSettings

WORKERS = 1000


def idle(plan: Plan, stack: Stack) -> Section:
    """CPU, connections and transactions in one run; then statements in another, while PostgreSQL logs them."""
    allow_open_files(WORKERS + 200)
    seconds = plan.seconds if plan.quick else max(plan.seconds, WAIT_SEC)
    stack.empty()
    with stack.runtime() as runtime, stack.connect() as asking:
        probes = {
            "transactions": lambda: stack.number(asking, _TRANSACTIONS),
            "connections": lambda: stack.number(asking, _CONNECTIONS),
            "statements": partial(_logged_statements, stack),
        }
        run = partial(load, stack, runtime, "idle", clients=WORKERS, warm_up_sec=WAIT_SEC + 2, probes=probes)
        quiet = run(seconds=seconds)
        asking.execute("alter system set log_statement = 'all'")
        asking.execute("select pg_reload_conf()")
        logged = run(seconds=seconds)
        asking.execute("alter system reset log_statement")
        asking.execute("select pg_reload_conf()")

    def per_sec(what: str) -> float:
        before, after = (logged if what == "statements" else quiet).probed[what]
        return (after - before) / quiet.seconds

    # The pool, and one connection that listens.
    most = ServerSettings.model_fields["pool_size"].default + 1
    busy = 100 * (quiet.cores["server"] + quiet.cores["PostgreSQL"])
    return Section(
        "idle",
        f"(e) {WORKERS:,} idle workers, polls of {WAIT_SEC:g} s",
        (
            Figure(
                "CPU of server and PostgreSQL, of one core",
                busy,
                "%",
                target=Target(5, at_most=True),
                cores=quiet.cores,
            ),
            Figure("statements sent to PostgreSQL", per_sec("statements"), "per s", target=Target(20, at_most=True)),
            Figure("transactions", per_sec("transactions"), "per s"),
            Figure("claims answered", quiet.per_sec, "per s"),
            Figure("connections to PostgreSQL", quiet.probed["connections"][1], "", target=Target(most, at_most=True)),
            Figure("most memory of one server process", quiet.server_mib or 0, "MiB", target=Target(200, at_most=True)),
        ),
    )


_TRANSACTIONS = "select xact_commit + xact_rollback from pg_stat_database where datname = current_database()"
_CONNECTIONS = """select count(*) from pg_stat_activity
                  where backend_type = 'client backend' and datname = current_database() and pid <> pg_backend_pid()"""


def _logged_statements(stack: Stack) -> float:
    """How many statements the log tells of so far; BEGIN and COMMIT are told as transactions instead."""
    told = 0
    with stack.postgres_log.open(errors="replace") as lines:
        for line in lines:
            _, mark, statement = line.partition("LOG:  ")
            if mark and statement.startswith(("statement: ", "execute ")):
                told += statement.split(": ", 1)[1].strip().upper() not in ("BEGIN", "COMMIT", "ROLLBACK")
    return told


def allow_open_files(wanted: int) -> None:
    """Let this process and its children open so many files, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
