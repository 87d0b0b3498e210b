"""surgeon export"""

import shlex
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from surgeon.cli.options import AsJson, Model

if TYPE_CHECKING:
    from surgeon.onnx.export import ExportReport

export = typer.Typer(no_args_is_help=True, help="Write a model in another runtime's form.")


@export.callback()
def _export() -> None:
    pass


@export.command("onnx")
def onnx(
    model: Model,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Write there instead, with hard links to the model's files.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        Literal["auto", "fp32", "fp16", "bf16", "float32", "float16", "bfloat16"],
        typer.Option(
            metavar="auto|fp32|fp16|bf16",
            help="What the graph computes in; auto: the checkpoint's own, or fp32 on a CPU.",
        ),
    ] = "auto",
    int4: Annotated[
        bool, typer.Option("--int4", metavar="", help="Quantize matrices to 4 bits, the head to 8.")
    ] = False,
    last_logits_only: Annotated[
        bool,
        typer.Option(
            "--last-logits-only",
            metavar="",
            help="Give logits of the last token alone, to generate with; faster prompts.",
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", metavar="", help="Run it and compare with transformers.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write model.onnx over the safetensors bytes of a model, for onnxruntime (-genai) on CUDA or CPU.

    The graph reads the weights where they lie: in the checkpoint's own dtype nothing is copied.
    Exits with 1 when --check finds a difference.
    """
    from surgeon.cli.render import print_json, progress
    from surgeon.onnx.export import export_onnx

    with progress("converting") as update:
        report = export_onnx(
            model,
            dtype,
            int4=int4,
            last_logits_only=last_logits_only,
            output=output,
            announce=lambda total: update(0, total),
            advance=lambda count: update(count, 0),
        )
    checked = None
    if check:
        from surgeon.onnx.check import check_onnx

        checked = check_onnx(output or model)
    if as_json:
        print_json({"export": report, "check": checked})
    else:
        show(report)
        if checked:
            verdict = "equal" if checked.ok else "DIFFERENT"
            typer.echo(
                f"Checked on {checked.device}: {verdict}; largest difference {checked.difference:.2g}, "
                f"{checked.relative:.2g} of the largest logit (bound {checked.bound:.0e}), over "
                f"{checked.prompt_tokens} prompt tokens and {checked.decode_steps} cached steps."
            )
        folder = output or model
        typer.echo(f'Next: surgeon generate {shlex.quote(str(folder))} "Once upon a time"')
    if checked and not checked.ok:
        raise typer.Exit(1)


@export.command("gguf")
def gguf(
    model: Model,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write; NAME-DTYPE.gguf in this folder without.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str,
        typer.Option(metavar="DTYPE", help="bf16, f16, f32 or q8_0; auto: the checkpoint's own."),
    ] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", metavar="", help="Replace the file if it exists.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a model as one GGUF file, with its tokenizer, for llama.cpp.

    A cut with blocks that have no MLP needs the form that prune --portable writes.
    """
    from surgeon.cli.render import print_json, progress
    from surgeon.gguf.export import export_gguf
    from surgeon.units import format_size

    with progress("writing") as update:
        report = export_gguf(
            model,
            dtype,
            output=output,
            overwrite=overwrite,
            announce=lambda total: update(0, total),
            advance=lambda count: update(count, 0),
        )
    if as_json:
        print_json(report)
        return
    typer.echo(
        f"{report.model}: architecture {report.architecture}, {report.dtype}, "
        f"tokenizer {report.tokenizer}."
    )
    for note in report.notes:
        typer.echo(f"Note: {note}.")
    typer.echo(
        f"Wrote {report.file}, {report.tensors} tensors, {format_size(report.size)}, "
        f"in {report.seconds:.2f} s."
    )
    typer.echo(f'Next: llama-cli -m {shlex.quote(report.file)} -p "Once upon a time"')


def show(report: "ExportReport") -> None:
    """The report in words."""
    from surgeon.units import format_size

    data = (
        f"{format_size(report.data_bytes)} of converted weights beside it"
        if report.data_bytes
        else "no weight copied"
    )
    kind = f"int4 weights, {report.dtype}" if report.int4 else report.dtype
    typer.echo(f"{report.model}: {kind}: {report.why}.")
    typer.echo(
        f"Wrote {report.graph}, {format_size(report.graph_bytes)}, {data}, in {report.seconds:.2f} s."
    )
    whole = report.kv_bytes_per_token * report.layers // max(1, report.kv_caches)
    typer.echo(
        f"KV cache: {format_size(report.kv_bytes_per_token)} per token in {report.kv_caches} of "
        f"{report.layers} blocks" + (f" ({format_size(whole)} with all)." if report.kv_caches else ".")
    )
