"""What a report says, as values: sections of texts, tables and charts.

Markdown, the HTML page and the figures are views of one document, so that they cannot disagree. All
texts are plain; each view escapes them.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One field of a table; ``spread`` is its standard error, set small beside it."""

    text: str
    spread: str = ""
    best: bool = False
    missing: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of words and figures: the first ``left`` columns are words, the others figures.

    ``groups`` are headings over the columns, each with the number of columns that it spans; together
    they span all columns.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    note: str = ""
    left: int = 1
    groups: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.rows} | {len(self.columns)}
        if self.groups:
            widths.add(sum(span for _, span in self.groups))
        if len(widths) != 1:
            raise ValueError(f"{self.caption}: rows, columns and groups differ in width: {widths}")


@dataclass(frozen=True)
class Point:
    """A place on a line, in the units of the axes, with the words that a reader gets for it."""

    x: float
    y: float
    words: str


@dataclass(frozen=True)
class Line:
    """Points from left to right. ``tone`` is the number of its colour, the same in all charts."""

    name: str
    tone: int
    dashed: bool
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis. ``name`` is that of its file; ``words`` say what it shows.

    ``ticks`` are places on the x axis with two lines of label; ``level`` is a value on the y axis that
    all lines are to be compared with, and its name.
    """

    name: str
    title: str
    words: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str, str], ...]
    level: tuple[float, str] | None = None


@dataclass(frozen=True)
class Text:
    """Paragraphs; ``listed`` makes them items of a list. Addresses in them become links."""

    paragraphs: tuple[str, ...]
    listed: bool = False


@dataclass(frozen=True)
class Facts:
    """Names and their values: settings, versions."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Lines for a terminal."""

    text: str


@dataclass(frozen=True)
class Charts:
    """Small charts of the same lines, side by side with one legend."""

    charts: tuple[Chart, ...]
    words: str


Part = Text | Table | Chart | Charts | Facts | Code


@dataclass(frozen=True)
class Section:
    """Parts under a heading. ``quoted`` marks what was not measured here but printed elsewhere."""

    title: str
    parts: tuple[Part, ...]
    quoted: bool = False


@dataclass(frozen=True)
class Document:
    """A report to be read: ``headline`` is its finding in one sentence, ``about`` what it is of."""

    about: str
    headline: str
    lead: str
    sections: tuple[Section, ...] = field(default=())

    def charts(self) -> tuple[Chart, ...]:
        """All charts, in the order they stand in."""
        parts = [part for section in self.sections for part in section.parts]
        return tuple(
            chart
            for part in parts
            for chart in (part.charts if isinstance(part, Charts) else (part,))
            if isinstance(chart, Chart)
        )
