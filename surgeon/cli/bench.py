"""surgeon bench"""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from surgeon.cli.options import (
    AsJson,
    By,
    Count,
    Device,
    Drops,
    Dtype,
    Fraction,
    Fractions,
    KeepLasts,
    Last,
    Layers,
)

if TYPE_CHECKING:
    from surgeon.measure.latency.values import Progress


def bench(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="A model, as for prune; or give --shape.", show_default=False
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Random weights instead: llama-2-7b, llama-2-13b, llama-3-8b, llama-3-70b, "
            "llama-2-7b-8-layers, tiny.",
            show_default=False,
        ),
    ] = None,
    runtime: Annotated[
        Literal["transformers", "onnxruntime"],
        typer.Option(metavar="RUNTIME", help="What runs the model: transformers or onnxruntime."),
    ] = "transformers",
    lengths: Annotated[
        str, typer.Option(metavar="LIST", help="Time one new token after prompts of so many tokens.")
    ] = "50,100",
    sequences: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Prompts of each length; 1000 on CUDA, 100 on a CPU.", show_default=False
        ),
    ] = None,
    decode: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="Time decoding over TOKENSxBATCH cached ones too: 100x1,4000x16."
        ),
    ] = "none",
    tokens: Annotated[int, typer.Option(metavar="N", help="Tokens to decode.")] = 30,
    drop: Drops = "attn,mlp,block",
    fractions: Fractions = "10%,25%,33%",
    keep_last: KeepLasts = "both",
    last: Last = None,
    fraction: Fraction = None,
    layers: Layers = None,
    count: Count = None,
    by: By = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph/--no-cuda-graph", help="onnxruntime on CUDA: replay graphs.")
    ] = True,
    threads: Annotated[
        int, typer.Option(metavar="N", help="onnxruntime on a CPU: its threads; 0: its own choice.")
    ] = 0,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="M",
            help="Begin no round or cut that would end later; the same command goes on.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="REPORT", help="A folder to write.", show_default=False),
    ] = None,
    work: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Where weights may lie meanwhile.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time a model and its cuts, and measure their memory: the paper's Tables 7-10.

    One cut instead of the grid: --drop with --last, --fraction, --layers or --count.
    """
    from surgeon.cli.render import print_document_table, print_json
    from surgeon.measure.latency.grids import choose_grid
    from surgeon.measure.latency.run import bench as run

    outcome = run(
        model,
        choose_grid(drop, fractions, keep_last, last, fraction, layers, count, by, _say),
        shape=shape,
        runtime=runtime,
        lengths=lengths,
        decode=decode,
        sequences=sequences,
        tokens=tokens,
        dtype=dtype,
        device=device,
        cuda_graph=cuda_graph,
        threads=threads,
        minutes=minutes,
        output=output,
        work=work,
        notify=_say,
        advance=_tell,
    )
    if as_json:
        print_json(outcome)
        return
    from surgeon.measure.latency.tables import figures_table, layout_tables, sizes_table

    report = outcome.report
    tables = tuple(layout_tables(report)) or tuple(figures_table(report, t) for t in report.tasks)
    for table in (*tables, sizes_table(report)):
        print_document_table(table)
        if table.note:
            typer.echo(f"{table.note}\n")
    for task in outcome.beyond_context:
        typer.echo(f"{task.name}: left out; the model has too few positions.")
    if outcome.unfinished:
        typer.echo(f"{outcome.unfinished} timings are missing; run the same again to go on.")
    if output is not None:
        typer.echo(f"Wrote {output}: bench.json, bench.md and index.html.")
    else:
        typer.echo("Next: the same with -o REPORT, for a report, and to go on where it stopped")


def _say(words: str) -> None:
    from surgeon.cli.render import say

    say(words, err=True)


def _tell(progress: "Progress") -> None:
    """A line on stderr for each finished cell."""
    cell, report = progress.cell, progress.report
    gain = report.improvement(cell.variant, cell.task)
    change = "" if gain is None else f", {abs(gain):.1f} % {'faster' if gain >= 0 else 'slower'}"
    left = f", {progress.left / 60:.1f} min left" if progress.left >= 1 else ""
    _say(
        f"[{progress.done}/{progress.total}{left}] {cell.variant.name}: {cell.task.name}: "
        f"{cell.timing.median:.3f} ms{change}"
    )
