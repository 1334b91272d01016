"""Named SQL: each slice keeps its statements in `queries.sql`, in blocks that start with `-- name: <name>`."""

import re
from importlib.resources import files

_BLOCK = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load_queries(package: str, *file_names: str) -> dict[str, bytes]:
    """The statements of `package`'s SQL files by name, as psycopg takes them.

    Raises ValueError for text before the first block, a block without a comment that tells its purpose, or a name
    that is used twice.
    """
    queries: dict[str, bytes] = {}
    for file_name in file_names or ("queries.sql",):
        head, *parts = _BLOCK.split(files(package).joinpath(file_name).read_text(encoding="utf-8"))
        if any(line and not line.startswith("--") for line in head.splitlines()):
            raise ValueError(f"{package}/{file_name}: SQL before the first block")
        for name, body in zip(parts[::2], parts[1::2], strict=True):
            if name in queries:
                raise ValueError(f"{package}/{file_name}: {name} is there twice")
            if not body.startswith("-- "):
                raise ValueError(f"{package}/{file_name}: {name} does not say its purpose")
            queries[name] = body.encode()
    return queries
