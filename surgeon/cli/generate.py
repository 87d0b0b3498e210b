"""surgeon generate"""

from typing import Annotated, Literal

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
    top_p: Annotated[
        float,
        typer.Option(metavar="P", help="Sample from the likeliest tokens that have probability P."),
    ] = 1.0,
    runtime: Annotated[
        Literal["auto", "onnxruntime", "transformers"],
        typer.Option(
            metavar="RUNTIME",
            help="What runs the model: onnxruntime or transformers; auto: onnxruntime if model.onnx "
            "is there.",
        ),
    ] = "auto",
    device: Annotated[
        Literal["auto", "cuda", "cpu"], typer.Option(help="Where it runs; auto: CUDA if there is one.")
    ] = "auto",
    cuda_graph: Annotated[
        bool,
        typer.Option(
            "--cuda-graph", metavar="", help="Replay decode steps as a CUDA graph (onnxruntime)."
        ),
    ] = False,
    seed: Annotated[int | None, typer.Option(metavar="S", help="Makes sampling repeatable.")] = None,
) -> None:
    """Continue a text with a model, pruned or not, token by token (onnxruntime or transformers)."""
    from surgeon.generation import generate as run

    pieces = run(
        model,
        prompt,
        max_new_tokens,
        temperature,
        seed,
        top_p=top_p,
        runtime=runtime,
        device=device,
        cuda_graph=cuda_graph,
    )
    typer.echo(prompt, nl=False)
    for text in pieces:
        typer.echo(text, nl=False)
    typer.echo()
