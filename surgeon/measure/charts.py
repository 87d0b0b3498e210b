"""The charts of a report: each score against the layers that lose something."""

import re

from surgeon.measure.document import Chart, Line, Point
from surgeon.measure.results import Measure, Report
from surgeon.measure.tables import DROP_NAMES, format_score, score, unit_words, whole


def chart(report: Report, measure: Measure) -> Chart | None:
    """One measure of all cuts of the grid, last layer kept dashed; None where there is no line."""
    base = whole(report)
    before = score(base, measure) if base else None
    lines = []
    for tone, (drop, name) in enumerate(DROP_NAMES.items()):
        for keep_last in (False, True):
            points = [
                Point(
                    cell.variant.count,
                    value,
                    f"{cell.variant.name}: {format_score(value, measure.unit)} {unit_words(measure)}",
                )
                for cell in sorted(report.cells, key=lambda cell: cell.variant.count)
                if (cell.variant.drop, cell.variant.keep_last) == (drop, keep_last)
                and (value := score(cell, measure)) is not None
            ]
            if points:
                if before is not None:
                    start = f"whole model: {format_score(before, measure.unit)} {unit_words(measure)}"
                    points.insert(0, Point(0, before, start))
                label = f"{name}, last layer kept" if keep_last else name
                lines.append(Line(label, tone, keep_last, tuple(points)))
    if not lines:
        return None
    counts = sorted({round(point.x) for line in lines for point in line.points})
    layers = report.subject.num_layers
    better = "higher" if measure.higher_is_better else "lower"
    unit = unit_words(measure)
    return Chart(
        name=file_name(measure.name),
        title=measure.label,
        words=(
            f"{measure.label} against the number of layers that lose their attention, their MLP or "
            f"both, counted from the last layer, or from the one before it where the last is kept. "
            f"{better.capitalize()} is better."
        ),
        x_label=f"layers cut, of {layers}",
        y_label=f"{measure.label}, {unit}" if unit and unit != measure.label.lower() else measure.label,
        lines=tuple(lines),
        ticks=tuple((n, str(n), f"{100 * n / layers:.0f} %") for n in counts),
        level=(before, f"whole model {format_score(before, measure.unit)}")
        if before is not None
        else None,
    )


def file_name(name: str) -> str:
    """A name that every file system takes, from that of a measure."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "score"
