"""A database of several servers: its URL names them all, and the one that takes writes is used."""

from urllib.parse import quote, urlsplit

import pytest
from psycopg.conninfo import conninfo_to_dict
from tests.real_postgres import FreshDatabase, eventually
from tests.real_runtime import Replica, StartReplica, refused, told

from bloom.base.settings import ServerSettings, load
from bloom.db.installation import claim_secret
from bloom.db.migrate import HEAD, check_schema, current_revision, rebuilding, upgrade
from bloom.server.run import check_database_url

BODY = {"context_id": "c", "agent_slug": "a", "prompt": "p"}


def of_several_hosts(url: str) -> str:
    """The same database behind a server that does not answer."""
    params = conninfo_to_dict(url)
    user, password, host = (quote(str(params.get(name) or ""), safe="") for name in ("user", "password", "host"))
    database = urlsplit(url).path
    servers = f"127.0.0.1:1,{host}:{params['port']}"
    return f"postgresql://{user}:{password}@{servers}{database}?target_session_attrs=read-write"


def test_a_url_of_several_hosts_is_taken_by_the_checks_the_migrations_and_the_mark(
    empty_database: FreshDatabase,
) -> None:
    url = of_several_hosts(empty_database.url)
    check_database_url(load(ServerSettings, DATABASE_URL=url, BLOOM_LISTEN_URL=url))
    assert upgrade(url)[-1] == HEAD == current_revision(url)
    check_schema(url)
    claim_secret(url, b"the mark of a secret")
    with rebuilding(url) as schema:
        assert schema.connection.execute("select count(*) from bloom.tasks").fetchone() == (0,)


def test_a_runtime_serves_and_hears_news_by_a_url_of_several_hosts(database: FreshDatabase) -> None:
    with Replica(of_several_hosts(database.url)) as runtime:
        runtime.until_listening()
        runtime.register()
        task, lease = runtime.leased()
        told(runtime.complete(task["id"], lease["id"]))


def test_a_server_that_takes_no_writes_is_a_database_that_is_away_until_it_does(
    start_replica: StartReplica, database: FreshDatabase
) -> None:
    """What a primary that became a standby says to connections through an address of its own."""
    runtime = start_replica()
    told(runtime.post("/llm-tasks", BODY), 201)
    # The test's own connection was there before.
    database.edit("""do $$ begin
        execute format('alter database %%I set default_transaction_read_only = on', current_database());
    end $$""")
    database.rows("""select pg_terminate_backend(pid) from pg_stat_activity
                     where application_name like 'bloom%%' and datname = current_database()""")  # fmt: skip

    def is_read_only() -> bool:
        answer = runtime.post("/llm-tasks", BODY)
        assert refused(answer, 503) == "database_unavailable"
        return runtime.get("/stats").status_code == 200

    eventually(is_read_only)
    database.edit("""do $$ begin
        execute format('alter database %%I reset default_transaction_read_only', current_database());
    end $$""")
    # The connections of that time are not used again.
    eventually(lambda: runtime.post("/llm-tasks", BODY).status_code == 201)


@pytest.mark.parametrize("setting", ["keepalives_idle", "tcp_user_timeout"])
def test_a_server_whose_machine_is_gone_is_noticed_in_seconds(start_replica: StartReplica, setting: str) -> None:
    runtime = start_replica()

    async def told_to_the_driver() -> str:
        async with runtime.services.database.transaction() as connection:
            return connection.info.get_parameters()[setting]

    assert int(runtime.run(told_to_the_driver())) in (5, 10_000)
