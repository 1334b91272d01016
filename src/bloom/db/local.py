"""The database of this installation, for a command that looks at it from outside the runtime."""

from collections.abc import Generator
from contextlib import contextmanager, suppress

import psycopg

from bloom.base.errors import ConfigurationError
from bloom.base.settings import ServerSettings
from bloom.db.embedded import EmbeddedPostgres
from bloom.db.migrate import check_schema
from bloom.db.pool import CONNECT_TIMEOUT_SEC, check_url


@contextmanager
def installed_database(settings: ServerSettings) -> Generator[str]:
    """`reachable_database`, where this release runs on its schema. Raises as `check_schema` does where it does not."""
    with reachable_database(settings) as url:
        check_schema(url)
        yield url


@contextmanager
def reachable_database(settings: ServerSettings, *, make: bool = False) -> Generator[str]:
    """The URL of DATABASE_URL's database, else of the embedded one in the data directory: the one that runs, or one that is
    started (`make`: and made where there is none) for as long as this lasts. Whatever its schema is.

    Raises ConfigurationError where there is none; Unavailable when it does not answer.
    """
    if settings.database_url is not None:
        check_url("DATABASE_URL", settings.database_url.get_secret_value())
        yield settings.database_url.get_secret_value()
        return
    postgres = EmbeddedPostgres(settings.data_dir)
    if not postgres.initialised and not make:
        raise ConfigurationError("DATABASE_URL is not set, and the data directory (BLOOM_DATA_DIR) holds no database")
    running = postgres.running_url()
    if running is not None and _answers(running):
        yield running
        return
    with postgres:
        yield postgres.start()


def _answers(url: str) -> bool:
    with suppress(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_SEC).close()
        return True
    return False  # what a killed server left
