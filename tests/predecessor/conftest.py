"""What the tests of the import share."""

from pathlib import Path

import pytest
from tests.predecessor.importing import Importing, importing_into
from tests.predecessor.tables import Predecessor
from tests.real_postgres import FreshDatabase


@pytest.fixture
def importing(database: FreshDatabase, tmp_path: Path) -> Importing:
    """Imports into `database`."""
    return importing_into(database.url, tmp_path)


@pytest.fixture
def predecessor(database: FreshDatabase) -> Predecessor:
    """Its tables, empty."""
    return Predecessor(database)
