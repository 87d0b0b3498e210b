"""surgeon similarity"""

import shlex
from typing import Annotated

import typer

from surgeon.cli.options import AsJson, Device, Dtype, Model


def similarity(
    model: Model,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Text to look at, again for several files; else the model's own samples.",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(metavar="N", help="Tokens to average over.")] = 4096,
    low_memory: Annotated[
        bool,
        typer.Option(
            "--low-memory",
            metavar="",
            help="Hold one layer's weights at a time, for models larger than the memory; needs --text.",
        ),
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Windows computed at once.")] = 8,
    seed: Annotated[int, typer.Option(metavar="S", help="For the model's own samples.")] = 0,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Write similarity.json, .png and .svg there.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how little each attention, MLP and layer changes the residual stream: what could be cut.

    Cosine similarities of the features before and after each, as in Figure 1 of arXiv 2407.15516, and
    angular distances over runs of layers, as in arXiv 2403.17887.
    """
    from surgeon.cli.render import console, countdown, print_json, say
    from surgeon.measure.chart import chart
    from surgeon.measure.compare import similarity as run
    from surgeon.measure.similarity_files import check_folder, write_similarity

    if output is not None:
        check_folder(output, model)
    with countdown("measuring") as advance:
        found = run(
            model,
            text=text or (),
            tokens=tokens,
            low_memory=low_memory,
            device=device,
            dtype=dtype,
            seed=seed,
            batch_size=batch_size,
            notify=lambda line: say(line, err=True),
            advance=advance,
        )
    written = write_similarity(found, output) if output is not None else ()
    if as_json:
        print_json(found)
        return
    subject = found.subject
    say(
        f"{subject.model}: cosine similarity before and after, over {found.tokens:,} tokens of "
        f"{found.settings['text']}"
    )
    console().print()
    console().print(chart(found))
    console().print()
    count = max(1, round(subject.num_layers / 3))
    first, distance = found.run(count)
    typer.echo(
        f"Run of {count} layers that turns the stream least: {first}-{first + count - 1}, "
        f"angular distance {distance:.3f}."
    )
    if output is None:
        typer.echo("Next: the same with -o DIR, for figures and for surgeon prune --count N --by DIR")
        return
    typer.echo(f"Wrote {', '.join(written)} to {output}.")
    place = shlex.quote(output)
    typer.echo(
        f"Next: surgeon prune {shlex.quote(model)} --drop attn --count {count} --by {place} -o OUT"
    )
