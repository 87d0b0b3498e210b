"""What the verbs share on the terminal: tables, a progress bar, JSON."""

import dataclasses
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgeon.measure.document import Table


def print_json(result: Any) -> None:
    """A dataclass, or anything JSON can hold, as one object on stdout."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            if hasattr(value, "to_json"):
                return value.to_json()
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    print(json.dumps(plain(result), indent=2, ensure_ascii=False))


def say(words: str, err: bool = False) -> None:
    """A line on stdout or stderr, broken between words on a terminal, so that no word breaks."""
    stream = sys.stderr if err else sys.stdout
    if stream.isatty():
        width = shutil.get_terminal_size().columns
        words = textwrap.fill(words, width, break_long_words=False, break_on_hyphens=False)
    print(words, file=stream, flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """A table on stdout; all columns but the first ``left`` are figures, set flush right."""
    out = console()
    table = _table(columns, rows, left)
    if _width(table) > out.width:
        table = _table(columns, rows, left, narrow=True)
    out.print(table)


def print_document_table(table: "Table") -> None:
    """A table of a report, with its caption; with rows for columns if only so it has room."""
    groups = [name for name, span in table.groups for _ in range(span)] or [""] * len(table.columns)
    columns = [
        f"{group}\n{column}" if group else column
        for group, column in zip(groups, table.columns, strict=True)
    ]
    rows = [[entry.text for entry in row] for row in table.rows]
    out = console()
    out.print(table.caption)
    if _width(_table(columns, rows, table.left, narrow=True)) > out.width:
        words = (column.replace("\n", ", ") for column in columns)
        lines = list(zip(words, *rows, strict=True))
        turned = _table(lines[0], lines[1:], 1, narrow=True)
        if _width(turned) <= out.width:
            out.print(turned)
            return
    print_table(columns, rows, table.left)


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], left: int, narrow: bool = False
) -> Any:
    from rich import box
    from rich.table import Table

    padding = (0, 1, 0, 0) if narrow else (0, 1)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _width(table: Any) -> int:
    """Characters that a table takes when nothing in it is broken."""
    from rich.console import Console

    return int(Console(width=10_000, markup=False).measure(table).maximum)


def console() -> Any:
    """A rich console on stdout; in a pipe it is wide, so that no line breaks."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)


@contextmanager
def countdown(words: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time that is left, on stderr, on a terminal only. Yields ``update(done, total)``.

    It appears with the first update, so that lines printed before it stay whole.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn(words), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    # rates change from part to part, as rows get shorter and cuts share more or less
    bar = Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=600)
    task = bar.add_task(words, total=None)

    def update(done: int, total: int) -> None:
        bar.start()
        bar.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        bar.stop()


@contextmanager
def progress(words: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, on a terminal only. Yields ``update(advance, total)`` in bytes.

    The bar appears with the first update, so that lines printed before it stay whole; a ``total`` of 0
    leaves the one that is known.
    """
    if not sys.stderr.isatty():
        yield lambda advance, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn(words), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(words, total=None)

    def update(advance: int, total: int) -> None:
        bar.start()
        bar.update(task, advance=advance, total=total or None)

    try:
        yield update
    finally:
        bar.stop()
