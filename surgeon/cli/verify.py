"""surgeon verify"""

from typing import Annotated

import typer

from surgeon.cli.options import AsJson


def verify(
    output: Annotated[str, typer.Argument(metavar="OUT", help="A pruned folder.")],
    against: Annotated[str, typer.Option(metavar="MODEL", help="The model that it was cut from.")],
    as_json: AsJson = False,
) -> None:
    """Prove byte by byte that a pruned folder is its source less what was removed.

    Exits with 1 when they differ.
    """
    from surgeon.cli.render import print_json, progress
    from surgeon.units import format_size
    from surgeon.verification import verify as run

    with progress("comparing") as update:
        result = run(
            output,
            against,
            announce=lambda total: update(0, total),
            advance=lambda count: update(count, 0),
        )
    if as_json:
        print_json(result)
    elif result.ok:
        typer.echo(f"{result.output} is {result.source} after {result.words}.")
        typer.echo(
            f"kept:    {result.kept} tensors, {format_size(result.compared_bytes)}, every byte equal"
        )
        typer.echo(f"removed: {result.removed} tensors, {format_size(result.removed_bytes)}")
        if result.added or result.padded:
            typer.echo(
                f"added:   {result.added} tensors of zero MLPs; {result.padded} padded with zeros"
            )
        typer.echo(f"files:   {result.files_compared} beside the weights, as they should be")
    else:
        for line in result.differences:
            typer.echo(line)
        typer.echo(f"{result.output} is NOT {result.source} after {result.words}.")
    if not result.ok:
        raise typer.Exit(1)
