"""surgeon generate"""

from typing import Annotated

import typer

from surgeon.cli.options import Model


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The text to continue.")],
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tokens to generate at most.")
    ] = 128,
    temperature: Annotated[
        float,
        typer.Option(metavar="T", min=0.0, help="0 always takes the likeliest token; 1 samples."),
    ] = 0.0,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Makes sampling repeatable.")] = None,
) -> None:
    """Continue a text with a model, pruned or not, token by token (needs torch and transformers)."""
    from surgeon.generation import generate as run

    typer.echo(prompt, nl=False)
    for text in run(model, prompt, max_new_tokens, temperature, seed):
        typer.echo(text, nl=False)
    typer.echo()
