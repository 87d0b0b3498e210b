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
    IncludePath,
    KeepLast,
    Last,
    Layers,
    Limit,
    Model,
    Stride,
    Tasks,
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
    tasks: Tasks = None,
    limit: Limit = None,
    include_path: IncludePath = None,
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
    """Measure a model, or what a cut would make of it, without writing the cut.

    The loss of texts, in sliding windows that predict every token once, or tasks of
    lm-evaluation-harness. With -o OUT/measured.json the result goes into the model card of OUT.
    """
    from surgeon.checkpoint.source import expand
    from surgeon.checkpoint.staging import SURGERY
    from surgeon.cli.render import countdown, print_json, print_table, say
    from surgeon.cli.wanted import wanted
    from surgeon.jsonfile import encode_json
    from surgeon.measure.card import MEASURED, refresh_card
    from surgeon.measure.files import write_file
    from surgeon.measure.quality import check_place
    from surgeon.measure.quality import evaluate as run
    from surgeon.measure.tables import format_score
    from surgeon.rule import Rule

    if output is not None:
        check_place(output)
    rule = Rule(drop, last, fraction, layers, count, by, keep_last)
    settings = wanted(text, window, stride, characters, windows, tasks, limit, include_path)
    with countdown("measuring") as progress:
        report = run(
            model,
            settings,
            rule if rule.given else None,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            notify=lambda words: say(words, err=True),
            progress=progress,
        )
    if output is not None:
        path = expand(output)
        write_file(path, encode_json(report.to_json()))
        if path.name == MEASURED and (path.parent / SURGERY).is_file() and refresh_card(path.parent):
            typer.echo(f"The model card beside {output} says so now.", err=True)
    if as_json:
        print_json(report)
        return
    (cell,) = report.cells
    say(f"{report.subject.model}: {cell.variant.name}")
    print_table(
        ("", "score", "±", "unit"),
        [
            (
                ", ".join(word for word in (m.label, m.detail) if word),
                format_score(cell.scores[m.name], m.unit),
                format_score(cell.stderr[m.name], m.unit) if m.name in cell.stderr else "",
                m.unit,
            )
            for m in report.measures
        ],
    )
    if rule.given:
        typer.echo("Next: surgeon prune with the same MODEL and cut, and -o OUT, to write it")
    else:
        typer.echo(
            "Next: the same with --drop attn --fraction 33%, or surgeon sweep, for what cuts cost"
        )
