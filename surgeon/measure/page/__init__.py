"""A document as one HTML page that needs nothing else: no network, no script, no font of its own."""

import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files

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
from surgeon.measure.page.svg import COLOURS, NARROW, SHAPES, WIDE, svg_inline
from surgeon.version import __version__


def html_page(document: Document) -> str:
    """The page. Every text of the document is escaped: names of models and tasks come from anywhere."""
    style = files("surgeon.measure.page").joinpath("page.css").read_text("utf-8")
    body = "\n".join(_section(section) for section in document.sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="surgeon {escape(__version__)}">
<title>{escape(document.about)}</title>
<style>
{COLOURS}{SHAPES}{style}</style>
</head>
<body>
<main>
<header>
<p class="about">{escape(document.about)}</p>
<h1>{_running(document.headline)}</h1>
<p class="lead">{_linked(document.lead)}</p>
</header>
{body}
</main>
<footer><p>Made by surgeon {escape(__version__)}.</p></footer>
</body>
</html>
"""


def _section(section: Section) -> str:
    quoted = ' class="quoted"' if section.quoted else ""
    mark = '<p class="mark-quoted">Printed elsewhere, not measured here</p>\n' if section.quoted else ""
    parts = "\n".join(_part(part) for part in section.parts)
    return f"<section{quoted}>\n{mark}<h2>{escape(section.title)}</h2>\n{parts}\n</section>"


def _part(part: Part) -> str:
    match part:
        case Text():
            return _text(part)
        case Table():
            return _table(part)
        case Chart():
            return _chart(part)
        case Charts():
            return _charts(part)
        case Facts():
            pairs = "\n".join(
                f"<div><dt>{escape(name)}</dt><dd>{_linked(value)}</dd></div>"
                for name, value in part.pairs
            )
            return f"<dl>\n{pairs}\n</dl>"
        case Code():
            return f'<pre tabindex="0"><code>{escape(part.text)}</code></pre>'


def _text(text: Text) -> str:
    if text.listed:
        items = "\n".join(f"<li>{_linked(item)}</li>" for item in text.paragraphs)
        return f"<ul>\n{items}\n</ul>"
    return "\n".join(f"<p>{_linked(paragraph)}</p>" for paragraph in text.paragraphs)


def _linked(text: str) -> str:
    """The text escaped, its addresses as links."""
    parts = re.split(r"(https://[\w./#?=&%~+-]*[\w/])", text, flags=re.ASCII)
    return "".join(
        f'<a href="{escape(part)}">{escape(part)}</a>' if number % 2 else _running(part)
        for number, part in enumerate(parts)
    )


def _running(text: str) -> str:
    """The text escaped, no line to end between a number and its unit."""
    return escape(re.sub(r"(?<=\d) (?=(?:%|ms|s|[kMGT]?B)(?!\w))", "\N{NO-BREAK SPACE}", text))


def _table(table: Table) -> str:
    rows = "\n".join(f"<tr>{''.join(_fields(table, row))}</tr>" for row in table.rows)
    note = f'<p class="note">{_linked(table.note)}</p>\n' if table.note else ""
    label = escape(table.caption)
    return f"""<div class="scroll" role="region" tabindex="0" aria-label="{label}">
<table>
<caption><span>{label}</span></caption>
<thead>
{"".join(_head(table))}</thead>
<tbody>
{rows}
</tbody>
</table>
</div>
{note}"""


def _head(table: Table) -> Iterator[str]:
    if table.groups:
        groups = "".join(
            f'<th scope="colgroup" colspan="{span}">{escape(name)}</th>'
            if name
            else f'<td colspan="{span}"></td>'
            for name, span in table.groups
        )
        yield f'<tr class="groups">{groups}</tr>\n'
    starts = set()
    at = 0
    for _, span in table.groups:
        starts.add(at)
        at += span
    columns = "".join(
        f'<th scope="col"{_class(n, table, n in starts)}>{escape(name)}</th>'
        for n, name in enumerate(table.columns)
    )
    yield f"<tr>{columns}</tr>\n"


def _fields(table: Table, row: tuple[Entry, ...]) -> Iterator[str]:
    for number, entry in enumerate(row):
        text = escape(entry.text)
        if entry.best:
            text = f"<strong>{text}</strong>"
        if entry.missing:
            text = f"<em>{text}</em>"
        if entry.spread:
            text += f" <small>\N{PLUS-MINUS SIGN} {escape(entry.spread)}</small>"
        if number:
            yield f"<td{_class(number, table)}>{text}</td>"
        else:
            yield f'<th scope="row">{text}</th>'


def _class(number: int, table: Table, starts: bool = False) -> str:
    words = [*(["words"] if number < table.left else []), *(["starts"] if starts else [])]
    return f' class="{" ".join(words)}"' if words else ""


def _chart(chart: Chart) -> str:
    # one drawing for wide pages and one for narrow ones, so that its letters keep their size
    return f"""<figure>
<div class="wide">{svg_inline(chart, WIDE)}</div>
<div class="narrow">{svg_inline(chart, NARROW)}
{_legend(chart)}</div>
<figcaption>{escape(chart.words)}</figcaption>
</figure>"""


def _charts(charts: Charts) -> str:
    drawn = "\n".join(f"<div>{svg_inline(chart, NARROW)}</div>" for chart in charts.charts)
    return f"""<figure>
<div class="side-by-side">
{drawn}
</div>
{_legend(charts.charts[0])}
<figcaption>{escape(charts.words)}</figcaption>
</figure>"""


def _legend(chart: Chart) -> str:
    names = "\n".join(
        f'<li><svg width="26" height="10" aria-hidden="true" class="surgeon-chart">'
        f'<path class="line tone{line.tone % 5}{" dashed" if line.dashed else ""}" d="M2 5H24"/></svg> '
        f"{escape(line.name)}</li>"
        for line in chart.lines
    )
    return f'<ul class="legend">\n{names}\n</ul>'
