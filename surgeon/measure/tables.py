"""The tables of a report, in the paper's own layout, and one that shows all cuts at a glance."""

import math
from collections.abc import Iterator

from surgeon.measure.document import Entry, Table
from surgeon.measure.paper import TABLES
from surgeon.measure.results import Cell, Measure, Report
from surgeon.measure.text import MEASURES
from surgeon.plan import parse_fraction

DROP_NAMES = {"attn": "attention", "mlp": "MLP", "block": "blocks"}
"""What stands for the words of ``--drop`` in tables and charts, in the order of their colours."""


def compared(report: Report) -> tuple[Measure, ...]:
    """The scores that cuts are compared by: one of the texts, and the average of tasks or one of each.

    The others say the same in other words, as perplexity does of the loss.
    """
    firsts: dict[str, Measure] = {}
    for measure in report.measures:
        of = "text" if measure.name in _OF_TEXT else measure.name.partition(".")[0]
        firsts.setdefault(of, measure)
    average = firsts.get("average")
    if average is None:
        return tuple(firsts.values())
    return (average, *([firsts["text"]] if "text" in firsts else []))


_OF_TEXT = frozenset(measure.name for measure in MEASURES)


def main_measure(report: Report) -> Measure:
    """The first of the scores that cuts are compared by: the average where there is one."""
    return compared(report)[0]


def score(cell: Cell, measure: Measure) -> float | None:
    """The score of a cell, or None as long as it is not finished and where it is no finite number."""
    value = cell.scores.get(measure.name)
    return value if value is not None and math.isfinite(value) else None


def whole(report: Report) -> Cell | None:
    """The cell of the model as it is, without a cut."""
    return next((cell for cell in report.cells if not cell.variant.removed), None)


def change(report: Report, cell: Cell, measure: Measure) -> float | None:
    """How far a cut moves the score from the whole model's, in the measure's unit."""
    base = whole(report)
    before = score(base, measure) if base else None
    after = score(cell, measure)
    return None if before is None or after is None else after - before


def format_score(value: float, unit: str, sign: bool = False) -> str:
    """A score in the digits of its unit: 54.3 percent, 3.364 nats/token, a perplexity of 28.90."""
    digits = 1 if unit == "%" else 3 if "/" in unit else 2
    if round(value, digits) == 0:
        value = 0.0  # not -0.0
    plus = "+" if sign else ""
    text = f"{value:{plus}.{digits}f}" if abs(value) < 1e6 else f"{value:{plus}.2e}"
    return text.replace("-", "\N{MINUS SIGN}")


def unit_words(measure: Measure, change: bool = False) -> str:
    """The unit as a reader says it; a change of percentages is in points."""
    if measure.unit == "%":
        return "points" if change else "%"
    return measure.unit.replace("/", " per ")


def kept_percent(fraction: str) -> str:
    """What the paper calls a cut of this share, by what is kept: "33%" is 66, "10%" is 90."""
    kept = 100 * (1 - parse_fraction(fraction))
    return "66" if kept == 67 else f"{kept.normalize():f}"  # the paper's word for two thirds


def cut_tables(report: Report) -> Iterator[Table]:
    """One table for each kind of cut, as the paper has them, and one for cuts of another making."""
    for (drop, keep_last), number in TABLES.items():
        cells = [
            cell
            for cell in report.cells
            if (cell.variant.drop, cell.variant.keep_last) == (drop, keep_last)
        ]
        if cells:
            name = DROP_NAMES[drop]
            kept = ", last layer kept" if keep_last else ""
            caption = f"{name[0].upper()}{name[1:]} dropped{kept} (as Table {number} of the paper)"
            yield _cut_table(report, cells, caption)
    others = [cell for cell in report.cells if cell.variant.removed and not cell.variant.drop]
    if others:
        yield _cut_table(report, others, "Cuts of another making")
    elif all(not cell.variant.removed for cell in report.cells):
        yield _cut_table(report, [], "The whole model")


def overview(report: Report, measure: Measure | None = None) -> Table | None:
    """Every cut's change of one measure, by default the main one: shares of layers down, kinds of cut
    across."""
    measure = measure or main_measure(report)
    cells = _by_cut(report)
    kinds = [
        (drop, keep_last)
        for drop in DROP_NAMES
        for keep_last in (False, True)
        if any(key[1:] == (drop, keep_last) for key in cells)
    ]
    fractions = sorted({(cell.variant.count, key[0]) for key, cell in cells.items()})
    if len(cells) < 2:
        return None
    groups: dict[str, int] = {"": 2}
    for drop, _ in kinds:
        groups[DROP_NAMES[drop]] = groups.get(DROP_NAMES[drop], 0) + 1
    base = whole(report)
    before = score(base, measure) if base else None
    of = f" {format_score(before, measure.unit)}" if before is not None else ""
    unit = f", in {unit_words(measure, True)}" if measure.unit else ""
    return Table(
        caption=f"Change of {_lower(measure.label)} from the whole model's{of}{unit}",
        columns=("kept", "layers cut", *("last kept" if keep else "last cut" for _, keep in kinds)),
        rows=tuple(
            (
                Entry(f"{kept_percent(fraction)} %"),
                Entry(f"{count} of {report.subject.num_layers}"),
                *_best_marked(
                    report, measure, [cells.get((fraction, drop, keep)) for drop, keep in kinds]
                ),
            )
            for count, fraction in fractions
        ),
        note="The best cut of each line is bold.",
        left=2,
        groups=tuple(groups.items()),
    )


def beside(report: Report, paper: Report) -> Table | None:
    """Changes of the main measure here and in the paper, cut by cut; None for another measure."""
    measure, printed = main_measure(report), main_measure(paper)
    theirs = _by_cut(paper)
    both = [(cell, theirs[cut]) for cut, cell in _by_cut(report).items() if cut in theirs]
    if (measure.name, measure.unit) != (printed.name, printed.unit) or not both:
        return None

    def entry(of: Report, cell: Cell) -> Entry:
        value = change(of, cell, main_measure(of))
        shown = None if value is None else Entry(format_score(value, measure.unit, True))
        return shown or _missing(cell, measure)

    return Table(
        caption=f"Change of {_lower(measure.label)} in {unit_words(measure, True)}",
        columns=("dropped", "kept", "last layer", "here", f"the paper, {paper.subject.model}"),
        rows=tuple(
            (
                Entry(DROP_NAMES[str(cell.variant.drop)]),
                Entry(f"{kept_percent(str(cell.variant.fraction))} %"),
                Entry("kept" if cell.variant.keep_last else "cut"),
                entry(report, cell),
                entry(paper, other),
            )
            for cell, other in both
        ),
        left=3,
    )


def _by_cut(report: Report) -> dict[tuple[str, str, bool], Cell]:
    """The cells of the grid by their fraction, what they drop and whether they keep the last layer."""
    return {
        (cell.variant.fraction, cell.variant.drop, cell.variant.keep_last): cell
        for cell in report.cells
        if cell.variant.fraction and cell.variant.drop
    }


def _best_marked(report: Report, measure: Measure, cells: list[Cell | None]) -> list[Entry]:
    changes = [change(report, cell, measure) if cell else None for cell in cells]
    known = [value for value in changes if value is not None]
    best = (max if measure.higher_is_better else min)(known, default=0.0)
    mark = format_score(best, measure.unit, True) if len(known) > 1 else None
    return [
        _missing(cell, measure)
        if value is None
        else Entry(text := format_score(value, measure.unit, True), best=text == mark)
        for cell, value in zip(cells, changes, strict=True)
    ]


def _cut_table(report: Report, cells: list[Cell], caption: str) -> Table:
    main = main_measure(report)
    base = whole(report)
    name = report.subject.model.rstrip("/").rpartition("/")[2] or report.subject.model
    rows = [(f"{name}-100 %", base)] if base else []
    for cell in sorted(cells, key=lambda cell: cell.variant.count):
        fraction = cell.variant.fraction
        label = f"{name}-{kept_percent(fraction)} %" if fraction else cell.variant.name
        rows.append((label, cell))
    columns = [f"{measure.label}{_in_unit(measure)}" for measure in report.measures]
    return Table(
        caption=caption,
        columns=("model", "layers cut", *columns, f"change of {_lower(main.label)}"),
        rows=tuple(
            (
                Entry(label),
                Entry(str(cell.variant.count) if cell.variant.removed else "none"),
                *(_entry(cell, measure) for measure in report.measures),
                _change_entry(report, cell, main),
            )
            for label, cell in rows
        ),
    )


def _entry(cell: Cell, measure: Measure) -> Entry:
    value = score(cell, measure)
    if value is None:
        return _missing(cell, measure)
    error = cell.stderr.get(measure.name)
    spread = format_score(error, measure.unit) if error is not None and math.isfinite(error) else ""
    return Entry(format_score(value, measure.unit), spread)


def _change_entry(report: Report, cell: Cell, measure: Measure) -> Entry:
    value = change(report, cell, measure) if cell.variant.removed else None
    return Entry("" if value is None else format_score(value, measure.unit, True))


def _missing(cell: Cell | None, measure: Measure) -> Entry:
    if cell is None:
        return Entry("")  # no such cut was asked for
    absent = cell.scores.get(measure.name) is None
    return Entry("not finished" if absent else "not finite", missing=True)


def _in_unit(measure: Measure) -> str:
    said = measure.unit in ("", "%") or unit_words(measure) == measure.label.lower()
    return "" if said else f", {measure.unit}"


def _lower(text: str) -> str:
    """For the middle of a sentence; names that are written large stay so."""
    return text if text[:2].isupper() or any(c.isupper() for c in text[1:]) else text.lower()
