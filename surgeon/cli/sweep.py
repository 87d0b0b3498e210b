"""surgeon sweep"""

import shlex
from typing import Annotated

import typer

from surgeon.cli.options import (
    AsJson,
    BatchSize,
    Characters,
    Device,
    Drops,
    Dtype,
    Fractions,
    IncludePath,
    KeepLasts,
    Limit,
    Model,
    Stride,
    Tasks,
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
    tasks: Tasks = None,
    limit: Limit = None,
    include_path: IncludePath = None,
    drop: Drops = "attn,mlp,block",
    fractions: Fractions = "10%,25%,33%",
    keep_last: KeepLasts = "both",
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
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Share the work out to N processes of Ray, each with the model; on CUDA a GPU each.",
            show_default=False,
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="A running Ray cluster for --workers; by default one on this machine.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a whole grid of cuts in one process; what cuts have in common is computed once.

    A killed sweep continues where it stopped when it is called again.
    """
    from surgeon.cli.render import countdown, print_document_table, print_json, say
    from surgeon.cli.wanted import wanted
    from surgeon.errors import SurgeonError
    from surgeon.measure.findings import cheapest, headline
    from surgeon.measure.gather import Engine, local_engine
    from surgeon.measure.opened import Opened
    from surgeon.measure.quality import sweep as run
    from surgeon.measure.tables import compared, cut_tables, overview
    from surgeon.measure.workers import import_ray, ray_engine

    if ray_address is not None and workers is None:
        raise SurgeonError("--ray-address says where workers run; give --workers N, too")
    if workers is not None:
        import_ray(ray_address)

    def notify(words: str) -> None:
        say(words, err=True)

    def engine(opened: Opened) -> Engine:
        if workers is None:
            return local_engine(opened, batch_size, notify)
        return ray_engine(opened, model, workers, ray_address, batch_size, notify)

    settings = wanted(text, window, stride, characters, windows, tasks, limit, include_path)
    with countdown("measuring") as progress:
        report = run(
            model,
            settings,
            output,
            drops=[word.strip() for word in drop.split(",")],
            fractions=[word.strip() for word in fractions.split(",")],
            keep_last=keep_last,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            paper=paper,
            engine=engine,
            notify=notify,
            progress=progress,
        )
    if as_json:
        print_json(report)
        return
    glance = [table for measure in compared(report) if (table := overview(report, measure))]
    for table in glance or cut_tables(report):
        print_document_table(table)
    say(headline(report))
    typer.echo(f"Wrote {output}: report.json, report.md and index.html.")
    if best := cheapest(report):
        kept = " --keep-last" if best.keep_last else ""
        how = f"--drop {best.drop} --last {best.count}{kept}"
        typer.echo(f"Next: surgeon prune {shlex.quote(model)} {how} -o OUT")
