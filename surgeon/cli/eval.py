"""surgeon eval"""

from typing import Annotated

import typer

from surgeon.cli.options import (
    AsJson,
    BatchSize,
    By,
    Characters,
    Count,
    Device,
    Drop,
    Dtype,
    Fraction,
    KeepLast,
    Last,
    Layers,
    Model,
    Stride,
    Text,
    Window,
    Windows,
)


def evaluate(
    model: Model,
    text: Text = None,
    window: Window = None,
    stride: Stride = None,
    characters: Characters = None,
    windows: Windows = None,
    drop: Drop = "attn",
    last: Last = None,
    fraction: Fraction = None,
    layers: Layers = None,
    count: Count = None,
    by: By = None,
    keep_last: KeepLast = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: BatchSize = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the report as JSON, too."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model, or a cut of it that is only pretended: nothing of it is written.

    The loss of texts, in sliding windows: every token is predicted once.
    """
    from surgeon.checkpoint.source import expand
    from surgeon.cli.render import countdown, print_json, print_table
    from surgeon.jsonfile import encode_json
    from surgeon.measure.files import write_file
    from surgeon.measure.quality import check_place
    from surgeon.measure.quality import evaluate as run
    from surgeon.measure.tables import format_score
    from surgeon.measure.text import TextSettings
    from surgeon.rule import Rule

    if output is not None:
        check_place(output)
    rule = Rule(drop, last, fraction, layers, count, by, keep_last)
    with countdown("measuring") as progress:
        report = run(
            model,
            TextSettings(tuple(text or ()), window, stride, characters, windows),
            rule if rule.given else None,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            notify=lambda words: typer.echo(words, err=True),
            progress=progress,
        )
    if output is not None:
        write_file(expand(output), encode_json(report.to_json()))
    if as_json:
        print_json(report)
        return
    (cell,) = report.cells
    typer.echo(f"{report.subject.model}: {cell.variant.name}")
    print_table(
        ("", "score", "unit"),
        [(m.label, format_score(cell.scores[m.name], m.unit), m.unit) for m in report.measures],
    )
