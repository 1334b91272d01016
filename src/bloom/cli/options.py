"""Options that several commands share."""

from typing import Annotated

import typer

RuntimeOption = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        metavar="URL",
        help="Address of the runtime. Default: BLOOM_URL, else the runtime of this data directory, else this machine.",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write one JSON document to stdout, errors as JSON to stderr.")
]
