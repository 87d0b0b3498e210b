"""The command line: one file a verb. Each parses, calls the library and renders; no logic here."""

import sys

import typer

from surgeon.cli import bench, export, generate, inspect, prune, push, similarity, sweep, verify
from surgeon.cli import eval as eval_
from surgeon.errors import SurgeonError
from surgeon.version import __version__

app = typer.Typer(
    name="surgeon",
    help="Remove attention, MLP or whole blocks from a Llama-like checkpoint, and run what is left.",
    epilog="Start with: surgeon prune sample --drop attn --last 4 --keep-last -o out",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("prune")(prune.prune)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.command("generate")(generate.generate)
app.command("eval")(eval_.evaluate)
app.command("sweep")(sweep.sweep)
app.add_typer(export.export, name="export")
app.command("bench")(bench.bench)
app.command("similarity")(similarity.similarity)
app.command("push")(push.push)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"surgeon {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False,
        "--version",
        metavar="",
        callback=_version,
        is_eager=True,
        help="Show the version and exit.",
    ),
) -> None:
    pass


def main() -> None:
    """The ``surgeon`` program. Exit codes: 0 done, 1 a check failed, 2 bad input, 130 interrupted."""
    try:
        code = app(standalone_mode=False)
    except SurgeonError as error:
        _fail(str(error), 2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away, as `| head` does; not worth a word
        sys.exit(141)
    except Exception as error:
        # typer's own errors: unknown options, missing arguments
        if not hasattr(error, "format_message"):
            raise
        if not error.format_message():
            sys.exit(2)  # no command was given, and the help was shown
        _fail(f"{error.format_message()} See --help.", 2)
    if code == 130:  # typer's word for Ctrl-C
        _fail("interrupted", 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    line = " ".join(message.split())
    print(f"surgeon: {line}", file=sys.stderr)
    sys.exit(code)
