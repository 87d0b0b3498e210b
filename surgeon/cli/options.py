"""Arguments that several verbs take."""

from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model's folder, ORG/NAME[@REVISION] of the Hub, an fsspec URL, or: sample",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object instead.")]
