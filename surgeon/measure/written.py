"""A document as Markdown: what report.md holds."""

from surgeon.markdown import fence, pipe_table, plain
from surgeon.measure.document import (
    Chart,
    Charts,
    Code,
    Document,
    Entry,
    Facts,
    Part,
    Section,
    Table,
    Text,
)


def markdown(document: Document) -> str:
    """The document; its charts are taken to lie beside it, NAME.svg each."""
    head = f"# {plain(document.headline)}\n\n{plain(document.lead)}\n"
    return "\n".join([head, *(_section(section) for section in document.sections)])


def _section(section: Section) -> str:
    quoted = "*Printed elsewhere, not measured here.*\n\n" if section.quoted else ""
    parts = "\n\n".join(_part(part) for part in section.parts)
    return f"## {plain(section.title)}\n\n{quoted}{parts}\n"


def _part(part: Part) -> str:
    match part:
        case Text():
            mark, gap = ("- ", "\n") if part.listed else ("", "\n\n")
            text = gap.join(f"{mark}{plain(paragraph)}" for paragraph in part.paragraphs)
        case Table():
            text = _table(part)
        case Chart():
            text = f"![{plain(part.title)}: {plain(part.words)}]({part.name}.svg)"
        case Charts():
            text = "\n\n".join([plain(part.words), *map(_part, part.charts)])
        case Facts():
            text = "\n".join(f"- {plain(name)}: {plain(value)}" for name, value in part.pairs)
        case Code():
            text = fence(part.text, "sh")
    return text


def _table(table: Table) -> str:
    groups = [name for name, span in table.groups for _ in range(span)] or [""] * len(table.columns)
    columns = [
        plain(f"{group}, {column}" if group else column)
        for group, column in zip(groups, table.columns, strict=True)
    ]
    rows = [[_field(entry) for entry in row] for row in table.rows]
    note = f"\n\n{plain(table.note)}" if table.note else ""
    return f"**{plain(table.caption)}**\n\n{pipe_table(columns, rows, table.left)}{note}"


def _field(entry: Entry) -> str:
    text = plain(entry.text)
    if entry.best:
        text = f"**{text}**"
    if entry.missing:
        text = f"*{text}*"
    return f"{text} \N{PLUS-MINUS SIGN} {plain(entry.spread)}" if entry.spread else text
