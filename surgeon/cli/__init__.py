"""The command line: one file a verb. Each parses, calls the library and renders; no logic here."""

import inspect as inspect_
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from surgeon.cli import bench, export, generate, inspect, prune, push, similarity, sweep, verify
from surgeon.cli import eval as eval_
from surgeon.errors import SurgeonError
from surgeon.version import __version__

VERBS = (
    *("prune", "inspect", "verify", "generate", "export", "push"),
    *("similarity", "eval", "sweep", "bench"),
)
"""In the order of --help: cutting and what is done with a cut, then measuring."""


class _Verbs(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=VERBS.index)


app = typer.Typer(
    name="surgeon",
    cls=_Verbs,
    help="Remove attention, MLP or whole blocks from a Llama-like checkpoint, run what is left, and "
    "measure what it costs.",
    epilog="Start with: surgeon prune sample --drop attn --last 4 --keep-last -o out",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(name: str, verb: Callable[..., None]) -> None:
    # typer would keep the ends of a docstring's lines, which a narrow terminal breaks once more
    paragraphs = inspect_.getdoc(verb) or ""
    app.command(name, help="\n\n".join(" ".join(p.split()) for p in paragraphs.split("\n\n")))(verb)


_add("prune", prune.prune)
_add("inspect", inspect.inspect)
_add("verify", verify.verify)
_add("generate", generate.generate)
app.add_typer(export.export, name="export")
_add("push", push.push)
_add("similarity", similarity.similarity)
_add("eval", eval_.evaluate)
_add("sweep", sweep.sweep)
_add("bench", bench.bench)


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
