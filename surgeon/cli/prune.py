"""surgeon prune"""

import shlex
from typing import Annotated

import typer

from surgeon.cli.options import AsJson, By, Count, Drop, Fraction, KeepLast, Last, Layers, Model


def prune(
    model: Model,
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="The folder to write.")],
    drop: Drop = "attn",
    last: Last = None,
    fraction: Fraction = None,
    layers: Layers = None,
    count: Count = None,
    by: By = None,
    keep_last: KeepLast = False,
    portable: Annotated[
        bool,
        typer.Option(
            "--portable",
            metavar="",
            help="Add zero MLPs, biases and padding where vLLM or llama.cpp would refuse the result.",
        ),
    ] = False,
    max_shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Weights per file at most.")
    ] = "5GB",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", metavar="", help="Replace OUT, if surgeon made it.")
    ] = False,
    onnx: Annotated[
        bool, typer.Option("--onnx", metavar="", help="Export the result for onnxruntime as well.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", metavar="", help="Check everything, show the outcome, write nothing."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Cut sublayers out of a checkpoint and write what is left, ready to load and publish.

    Weights are moved as bytes, never loaded; memory stays small whatever the model.
    """
    from surgeon.cli.render import print_json, progress
    from surgeon.rule import Rule
    from surgeon.surgery import Operation
    from surgeon.surgery import prune as run

    with progress("cutting") as update:

        def announce(operation: Operation) -> None:
            if not as_json:
                typer.echo(f"{operation.checkpoint.source.name}: {operation.plan.describe()}")
                for line in operation.why:
                    typer.echo(f"  {line}")
            if not dry_run:
                update(0, operation.layout.size)

        report = run(
            model,
            output,
            Rule(drop, last, fraction, layers, count, by, keep_last),
            portable=portable,
            max_shard_size=max_shard_size,
            overwrite=overwrite,
            onnx=onnx,
            dry_run=dry_run,
            announce=announce,
            advance=lambda count: update(count, 0),
        )
    if as_json:
        print_json(report)
        return
    from surgeon.card import cost_rows
    from surgeon.cli.render import print_table
    from surgeon.units import format_size

    print_table(("", "before", "after", "change"), cost_rows(report.before, report.after))
    refused = [r for r in report.runtimes if not r.loads]
    for runtime in refused:
        typer.echo(f"{runtime.name} {runtime.note}")
    if dry_run:
        typer.echo(f"Nothing was written; without --dry-run, {report.output} gets:")
        typer.echo(f"  {', '.join(report.files)}")
        return
    speed = report.bytes_written / max(report.seconds, 1e-9) / 1e9
    shared = (
        f" ({format_size(report.shared_bytes)} shared with the source)" if report.shared_bytes else ""
    )
    if report.fetched_bytes:
        typer.echo(
            f"Fetched {format_size(report.fetched_bytes)} of weights; "
            f"{format_size(report.not_fetched_bytes)} were never downloaded."
        )
    typer.echo(
        f"Wrote {format_size(report.bytes_written)} to {report.output} in {report.seconds:.2f} s, "
        f"{speed:.2f} GB/s{shared}."
    )
    if report.onnx:
        from surgeon.cli.export import show

        show(report.onnx)
    typer.echo(f'Next: surgeon generate {shlex.quote(report.output)} "Once upon a time"')
