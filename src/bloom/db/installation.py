"""The secret that all replicas of an installation share: for the cookies of pages and for what is sealed in the database.

The database keeps a mark of it, from which nobody gets the secret. A process with another secret would take the others'
sessions for forged, and could not open what they sealed: it does not start.
"""

import hmac

import psycopg

from bloom.base.errors import ConfigurationError
from bloom.db.pool import CONNECT_TIMEOUT_SEC, database_unavailable
from bloom.db.queries import load_queries

_SQL = load_queries("bloom.db", "installation.sql")


def claim_secret(database_url: str, mark: bytes) -> None:
    """Say that the secret with this mark is the installation's. Raises ConfigurationError if another one is, Unavailable."""
    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_SEC) as connection:
            row = connection.execute(_SQL["claim_secret"], {"mark": mark}).fetchone()
            # Of two that come at once the second has waited, and its statement still sees the state of its start.
            row = row or connection.execute(_SQL["claim_secret"], {"mark": mark}).fetchone()
    except psycopg.OperationalError as error:
        raise database_unavailable() from error
    if row is None or not hmac.compare_digest(bytes(row[0]), mark):
        raise ConfigurationError(
            "The secret of this runtime is not the one of the other runtimes on this database. Set BLOOM_SECRET_KEY to theirs, "
            "or bring their secret.key into BLOOM_DATA_DIR. If theirs is lost: stop all, say `bloom db forget-secret`, start."
        )


def forget_secret(database_url: str) -> tuple[bool, bool]:
    """Let the next runtime that starts choose the secret. Whether there was one, and whether Membridge's key went along."""
    try:
        with psycopg.connect(database_url, connect_timeout=CONNECT_TIMEOUT_SEC) as connection:
            row = connection.execute(_SQL["forget_secret"]).fetchone()
    except psycopg.OperationalError as error:
        raise database_unavailable() from error
    return (False, False) if row is None else (bool(row[0]), bool(row[1]))
