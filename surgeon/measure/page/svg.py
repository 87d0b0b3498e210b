"""Charts as SVG, drawn by hand: small, sharp, and in the colours of the page around them."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from surgeon.measure.document import Chart, Line
from surgeon.measure.page.scale import Scale, apart, round_ticks, spread, tick_labels

# a circle, a square and a diamond around a point, as in the figures of surgeon.measure.plots
_MARKS = (
    "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
    "m-3.2 -3.2h6.4v6.4h-6.4z",
    "m0 -4.6l4.6 4.6l-4.6 4.6l-4.6 -4.6z",
)
MARKERS_UP_TO = 24
"""Lines of more points are drawn without a mark on each."""

# Okabe and Ito's colours, readable without colour vision, darkened for a white ground and brightened
# for a dark one until they have the contrast of text
COLOURS = """:root { --ink: #1c1f23; --soft: #59616b; --grid: #e2e5e9; --ground: #ffffff;
  --tone0: #0068a8; --tone1: #b84700; --tone2: #474c54; --tone3: #8a4b7d; --tone4: #6f6100; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb5; --grid: #333940;
  --ground: #15181c; --tone0: #5ab4ee; --tone1: #ff9a4d; --tone2: #c6ccd4; --tone3: #dc9bcd;
  --tone4: #d9c64a; } }
"""

SHAPES = """
.surgeon-chart text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans",
  sans-serif; fill: var(--soft); font-variant-numeric: tabular-nums; }
.surgeon-chart .axis-name { fill: var(--ink); }
.surgeon-chart .rule { stroke: var(--grid); stroke-width: 1; }
.surgeon-chart .level { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; }
.surgeon-chart .level-name { paint-order: stroke; stroke: var(--ground); stroke-width: 5px; }
.surgeon-chart .line { fill: none; stroke-width: 2.25; stroke-linejoin: round; stroke-linecap: round; }
.surgeon-chart .dashed { stroke-dasharray: 6 5; }
.surgeon-chart .mark { stroke-width: 2; }
.surgeon-chart .hollow { fill: var(--ground); }
.surgeon-chart .name { font-weight: 600; }
.surgeon-chart .kept { font-weight: 400; }
""" + "".join(
    f".surgeon-chart .tone{n} {{ stroke: var(--tone{n}); }} "
    f".surgeon-chart .fill{n} {{ fill: var(--tone{n}); }} "
    f".surgeon-chart .name{n} {{ fill: var(--tone{n}); }}\n"
    for n in range(5)
)


@dataclass(frozen=True)
class Size:
    """A chart's measures in pixels; ``names`` is the room for the lines' names on the right."""

    width: int
    height: int
    names: int
    left: int = 56
    top: int = 34
    bottom: int = 62


WIDE = Size(824, 450, 200)
NARROW = Size(358, 380, 0, left=44)


def svg_file(chart: Chart) -> str:
    """A chart as a file of its own, light or dark as its reader is."""
    style = f"<style>{COLOURS}{SHAPES}.surgeon-chart {{ background: var(--ground); }}</style>"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{_svg(chart, WIDE, style)}\n'


def svg_inline(chart: Chart, size: Size) -> str:
    """A chart as a part of a page, which has COLOURS and SHAPES in its style."""
    return _svg(chart, size, "")


def _svg(chart: Chart, size: Size, style: str) -> str:
    right, bottom = size.width - size.names - 20, size.height - size.bottom
    values = [point.y for line in chart.lines for point in line.points]
    values += [chart.level[0]] if chart.level else []
    ys = round_ticks(min(values), max(values))
    xs = [place for place, _, _ in chart.ticks] + [p.x for line in chart.lines for p in line.points]
    first, last = min(xs), max(xs)
    x = Scale(first, last if last > first else first + 1, size.left + 6, right)
    y = Scale(ys[0], ys[-1], bottom, size.top)
    label = escape(f"{chart.title}. {chart.words}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="surgeon-chart" role="img" '
        f'viewBox="0 0 {size.width} {size.height}" width="{size.width}" height="{size.height}" '
        f'aria-label="{label}">{style}',
        *_y_axis(chart, ys, y, size, right),
        *_x_axis(chart, x, size, right),
    ]
    if chart.level:
        at = _n(y(chart.level[0]))
        parts.append(f'<line class="level" x1="{size.left}" x2="{_n(right)}" y1="{at}" y2="{at}"/>')
    for line in chart.lines:
        parts += _line(line, x, y)
    if chart.level:
        parts.append(_level_name(chart.level, chart.lines, y, right))
    if size.names:
        parts += _names(chart, x, y, size)
    return "\n".join([*parts, "</svg>"])


def _y_axis(
    chart: Chart, ticks: tuple[float, ...], y: Scale, size: Size, right: float
) -> Iterator[str]:
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        at = _n(y(tick))
        yield f'<line class="rule" x1="{size.left}" x2="{_n(right)}" y1="{at}" y2="{at}"/>'
        yield f'<text x="{size.left - 8}" y="{at}" dy=".35em" text-anchor="end">{label}</text>'
    yield f'<text class="axis-name" x="4" y="15">{escape(chart.y_label)}</text>'


def _x_axis(chart: Chart, x: Scale, size: Size, right: float) -> Iterator[str]:
    base = size.height - size.bottom
    shown = apart([x(place) for place, _, _ in chart.ticks], 42)
    for number in shown:
        place, upper, lower = chart.ticks[number]
        at = _n(x(place))
        yield f'<line class="rule" x1="{at}" x2="{at}" y1="{base}" y2="{base + 5}"/>'
        yield (
            f'<text x="{at}" y="{base + 19}" text-anchor="middle">{escape(upper)}'
            f'<tspan x="{at}" dy="15">{escape(lower)}</tspan></text>'
        )
    yield (
        f'<text class="axis-name" x="{_n((size.left + right) / 2)}" y="{size.height - 8}" '
        f'text-anchor="middle">{escape(chart.x_label)}</text>'
    )


def _level_name(level: tuple[float, str], lines: tuple[Line, ...], y: Scale, right: float) -> str:
    """The name of the level at its right end, on the side where there is less."""
    at = y(level[0])
    ends = [y(line.points[-1].y) for line in lines]
    below, above = sum(end > at + 1 for end in ends), sum(end < at - 1 for end in ends)
    place = at - 7 if below >= above else at + 17
    return (
        f'<text class="level-name" x="{_n(right)}" y="{_n(place)}" text-anchor="end">'
        f"{escape(level[1])}</text>"
    )


def _line(line: Line, x: Scale, y: Scale) -> Iterator[str]:
    tone = line.tone % 5
    dashed = " dashed" if line.dashed else ""
    places = [(_n(x(point.x)), _n(y(point.y))) for point in line.points]
    path = " ".join(f"{'L' if n else 'M'}{px} {py}" for n, (px, py) in enumerate(places))
    yield f'<path class="line tone{tone}{dashed}" d="{path}"/>'
    if len(places) > MARKERS_UP_TO:
        return
    for (px, py), point in zip(places, line.points, strict=True):
        fill = "hollow" if line.dashed else f"fill{tone}"
        yield (
            f'<path class="mark tone{tone} {fill}" d="M{px} {py}{_MARKS[tone % len(_MARKS)]}">'
            f"<title>{escape(point.words)}</title></path>"
        )


def _names(chart: Chart, x: Scale, y: Scale, size: Size) -> Iterator[str]:
    ends = [y(line.points[-1].y) for line in chart.lines]
    places = spread(ends, 17, size.top, size.height - size.bottom)
    for line, end, place in zip(chart.lines, ends, places, strict=True):
        tone = line.tone % 5
        start = x(line.points[-1].x) + 7
        text = x.end + 22
        if abs(end - place) > 2 or x.end - x(line.points[-1].x) > 1:
            yield (
                f'<line class="rule" x1="{_n(start)}" y1="{_n(end)}" '
                f'x2="{_n(text - 4)}" y2="{_n(place)}"/>'
            )
        kept = " kept" if line.dashed else ""
        yield (
            f'<text class="name name{tone}{kept}" x="{_n(text)}" y="{_n(place)}" dy=".35em">'
            f"{escape(line.name)}</text>"
        )


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
