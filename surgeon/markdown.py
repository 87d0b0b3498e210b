"""Markdown as GitHub and the Hub show it."""

import re
from collections.abc import Sequence

_SPECIAL = re.compile(r"([\\`*\[\]<|])")


def plain(text: str) -> str:
    """A text of any origin as Markdown that shows it as it is: one line, nothing marked up."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def fence(text: str, language: str = "") -> str:
    """A code block, with more backticks around it than it has in itself."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}"


def pipe_table(columns: Sequence[str], rows: Sequence[Sequence[str]], left: int | None = None) -> str:
    """A table of Markdown; fields may have markup of their own (``plain`` those that must not).

    All columns but the first ``left`` are figures, set flush right; None sets all of them flush left.
    """
    rule = ["---" if left is None or number < left else "---:" for number in range(len(columns))]
    lines = [_row(columns), f"|{'|'.join(rule)}|", *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(fields: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(field.split()) for field in fields)} |"
