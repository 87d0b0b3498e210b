"""surgeon sweep"""

import shlex
from typing import Annotated, Literal

import typer

from surgeon.cli.options import (
    AsJson,
    BatchSize,
    Characters,
    Device,
    Dtype,
    Model,
    Stride,
    Text,
    Window,
    Windows,
)


def sweep(
    model: Model,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="REPORT", help="The folder of the report.")
    ],
    text: Text = None,
    window: Window = None,
    stride: Stride = None,
    characters: Characters = None,
    windows: Windows = None,
    drop: Annotated[
        str, typer.Option(metavar="LIST", help="What the cuts remove: some of attn, mlp, block.")
    ] = "attn,mlp,block",
    fractions: Annotated[
        str, typer.Option(metavar="LIST", help="Shares of the layers that lose a sublayer.")
    ] = "0,10%,25%,33%",
    keep_last: Annotated[
        Literal["both", "yes", "no"], typer.Option(help="Whether cuts keep the last layer whole.")
    ] = "both",
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = None,
    paper: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Show the paper's own numbers beside: llama-2-7b, llama-2-13b, none, or auto for "
            "those of the same model.",
        ),
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a whole grid of cuts in one process; what cuts have in common is computed once.

    A killed sweep continues where it stopped when it is called again.
    """
    from surgeon.cli.render import countdown, print_document_table, print_json
    from surgeon.measure.findings import headline
    from surgeon.measure.quality import sweep as run
    from surgeon.measure.tables import cut_tables, overview
    from surgeon.measure.text import TextSettings

    with countdown("measuring") as progress:
        report = run(
            model,
            TextSettings(tuple(text or ()), window, stride, characters, windows),
            output,
            drops=[word.strip() for word in drop.split(",")],
            fractions=[word.strip() for word in fractions.split(",")],
            keep_last=keep_last,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            paper=paper,
            notify=lambda words: typer.echo(words, err=True),
            progress=progress,
        )
    if as_json:
        print_json(report)
        return
    glance = overview(report)
    for table in [glance] if glance else cut_tables(report):
        print_document_table(table)
    typer.echo(headline(report))
    typer.echo(f"Wrote {output}: report.json, report.md and index.html.")
    typer.echo(f"Next: surgeon prune {shlex.quote(model)} --fraction 33% --keep-last -o out")
