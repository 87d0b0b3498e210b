"""Arguments that several verbs take."""

from typing import Annotated, Literal

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model's folder, ORG/NAME or ORG/NAME@REVISION of the Hub, an fsspec URL, or: sample",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="Print one JSON object instead.")]

Drop = Annotated[
    Literal["attn", "mlp", "block"],
    typer.Option(help="What to remove of each chosen layer; block means both sublayers."),
]
Last = Annotated[
    int | None, typer.Option(metavar="K", help="Choose the last K layers.", show_default=False)
]
Fraction = Annotated[
    str | None,
    typer.Option(metavar="F", help="Choose the last F x layers: 33% or 0.33.", show_default=False),
]
Layers = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Choose layers by number, from 0, ranges inclusive: 18-30,33.",
        show_default=False,
    ),
]
Count = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Choose the N most redundant layers, as --by ranks them.", show_default=False
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="What surgeon similarity -o DIR wrote of this model.", show_default=False
    ),
]
KeepLast = Annotated[
    bool,
    typer.Option(
        "--keep-last",
        metavar="",
        help="Keep the last layer whole: it is left out of the choice, --last and --fraction move up.",
    ),
]

Drops = Annotated[
    str, typer.Option(metavar="LIST", help="What the cuts remove: some of attn, mlp, block.")
]
Fractions = Annotated[
    str, typer.Option(metavar="LIST", help="Shares of the layers that lose a sublayer.")
]
KeepLasts = Annotated[
    Literal["both", "yes", "no"], typer.Option(help="Whether cuts keep the last layer whole.")
]

Device = Annotated[
    Literal["auto", "cuda", "cpu"], typer.Option(help="Where it runs; auto: CUDA if there is one.")
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="DTYPE",
        help="What it computes in: float32, float16 or bfloat16, fp32, fp16 or bf16 for short; auto: "
        "the checkpoint's own on CUDA, float32 on a CPU.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Rows computed at once; by default about 4096 tokens, fewer where memory is short.",
        show_default=False,
    ),
]

Text = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        help="UTF-8 text whose loss is measured; may be given again.",
        show_default=False,
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Tokens of a window; by default the model's context, at most 2048.",
        show_default=False,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Tokens scored in each window; by default half of it, the rest is context. "
        "As long as the window: no overlap.",
        show_default=False,
    ),
]
Characters = Annotated[
    int | None,
    typer.Option(metavar="N", help="Read only the first N characters of a text.", show_default=False),
]
Windows = Annotated[
    int | None,
    typer.Option(metavar="N", help="Measure only the first N windows of a text.", show_default=False),
]

Tasks = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LIST",
        help="Tasks of lm-evaluation-harness, NAME or NAME:SHOTS; openllm: the four of the paper.",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(metavar="N", help="Take only the first N documents of a task.", show_default=False),
]
IncludePath = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="A folder of tasks of your own, as YAML files.", show_default=False
    ),
]
