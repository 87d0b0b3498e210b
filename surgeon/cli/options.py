"""Arguments that several verbs take."""

from typing import Annotated, Literal

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

Drop = Annotated[
    Literal["attn", "mlp", "block"],
    typer.Option(help="What to remove of each chosen layer; block means both sublayers."),
]
Last = Annotated[
    int | None, typer.Option(metavar="K", help="Choose the last K layers.", show_default=False)
]
Fraction = Annotated[
    str | None,
    typer.Option(metavar="F", help="Choose the last F x layers: 33% or 0.33.", show_default=False),
]
Layers = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Choose layers by number, from 0, ranges inclusive: 18-30,33.",
        show_default=False,
    ),
]
Count = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Choose the N most redundant layers, as --by ranks them.", show_default=False
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="What surgeon similarity -o wrote of this model.", show_default=False
    ),
]
KeepLast = Annotated[
    bool,
    typer.Option(
        "--keep-last",
        metavar="",
        help="Keep the last layer whole: it is left out of the choice, --last and --fraction move up.",
    ),
]
