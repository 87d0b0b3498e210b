"""The findings of a report in sentences, computed from its numbers."""

from collections.abc import Iterator, Mapping

from surgeon.measure.grid import Variant
from surgeon.measure.results import Measure, Report
from surgeon.measure.tables import change, compared, format_score, score, unit_words, whole

_NAMES = {"attn": "attention", "mlp": "MLPs", "block": "whole blocks"}

Costs = Mapping[tuple[str, int, bool], float]
"""How much worse a measure gets, by what is dropped, of how many layers, and keep_last."""


def headline(report: Report) -> str:
    """The main finding in one sentence: what the largest cut costs, attention against the rest.

    Of several measures it speaks of the average, or of the one that loses the largest share of itself.
    """
    measure = _foremost(report)
    sentence = _sentence(report, measure)
    if len(compared(report)) == 1 or not _costs(report, measure):
        return sentence
    hardest = "" if measure.name == "average" else "Hit hardest, "
    return f"{hardest}{measure.label}: {sentence[0].lower()}{sentence[1:]}"


def _foremost(report: Report) -> Measure:
    measures = compared(report)
    if measures[0].name == "average":
        return measures[0]
    return max(measures, key=lambda measure: _share_lost(report, measure))


def _share_lost(report: Report, measure: Measure) -> float:
    """How much worse the largest cut of attention is, or of what else there is, as a share of the whole
    model's score."""
    base = whole(report)
    before = score(base, measure) if base else None
    costs = _costs(report, measure)
    largest = _largest(costs)
    if not before or largest is None:
        return 0.0
    return next(costs[drop, *largest] for drop in _NAMES if (drop, *largest) in costs) / abs(before)


def _sentence(report: Report, measure: Measure) -> str:
    costs = _costs(report, measure)
    largest = _largest(costs)
    if largest is None:
        return _of_the_whole(report, measure)
    count, keep_last = largest
    first, *others = (drop for drop in _NAMES if (drop, count, keep_last) in costs)
    dropping = "With the last layer kept, dropping" if keep_last else "Dropping"
    layers = f"{count} of {report.subject.num_layers} layers"
    cost = costs[first, count, keep_last]
    unit = unit_words(measure, change=True)
    words = [f"{dropping} {_NAMES[first]} in {layers} {_verb(cost, measure, 's')} {unit}".rstrip()]
    gains = cost < 0
    for drop in others:
        cost = costs[drop, count, keep_last]
        alike = (cost < 0) == gains
        told = format_score(abs(cost), measure.unit) if alike else _verb(cost, measure)
        words.append(f"{_NAMES[drop]} {told}")
    return f"{', '.join(words)}."


def cheapest(report: Report) -> Variant | None:
    """Of the cuts of most layers, the one that costs least."""
    measure = _foremost(report)
    costs = _costs(report, measure)
    cuts = [
        c.variant
        for c in report.cells
        if (c.variant.drop, c.variant.count, c.variant.keep_last) in costs
    ]
    most = max((cut.count for cut in cuts), default=0)
    return min(
        (cut for cut in cuts if cut.count == most),
        key=lambda cut: costs[str(cut.drop), cut.count, cut.keep_last],
        default=None,
    )


def findings(report: Report) -> Iterator[str]:
    """What else the numbers say, a sentence each; none where they do not say it."""
    measure = _foremost(report)
    costs = _costs(report, measure)
    largest = _largest(costs)
    if largest is not None:
        count, keep_last = largest
        yield from _attention_against_mlp(costs, count, keep_last)
        yield from _last_layer(costs, count, keep_last, measure)
    for other in compared(report):
        if other != measure and _costs(report, other):
            sentence = _sentence(report, other)
            yield f"{other.label}: {sentence[0].lower()}{sentence[1:]}"
    open_cells = [
        cell.variant for cell in report.cells if any(score(cell, m) is None for m in report.measures)
    ]
    if open_cells:
        yield f"{len(open_cells)} of {len(report.cells)} cuts are not finished."


def _attention_against_mlp(costs: Costs, count: int, keep_last: bool) -> Iterator[str]:
    attention, mlp = (costs.get((drop, count, keep_last)) for drop in ("attn", "mlp"))
    if attention is None or mlp is None:
        return
    if 0 < attention < mlp:
        yield (f"MLPs of as many layers cost {mlp / attention:.1f} times as much as attention.")
    fewer = [
        n
        for (drop, n, kept), cost in costs.items()
        if (drop, kept) == ("mlp", keep_last) and cost > attention
    ]
    if fewer and min(fewer) < count:
        yield f"Attention of {count} layers costs less than the MLPs of {min(fewer)}."


def _last_layer(costs: Costs, count: int, keep_last: bool, measure: Measure) -> Iterator[str]:
    told = []
    for drop, name in _NAMES.items():
        here, other = (costs.get((drop, count, keep)) for keep in (keep_last, not keep_last))
        if here is None or other is None:
            continue
        instead = format_score(here, measure.unit)
        if format_score(other, measure.unit) != instead:
            verb = _verb(other, measure, "s" if drop == "attn" else "")
            told.append(f"{name} {verb} instead of {instead}")
    if told:
        when = "When the last layer is cut as well" if keep_last else "With the last layer kept"
        yield f"{when}, {', '.join(told)}."


def _costs(report: Report, measure: Measure) -> Costs:
    costs = {}
    for cell in report.cells:
        cut = cell.variant
        value = change(report, cell, measure)
        if cut.drop in _NAMES and value is not None:
            costs[cut.drop, cut.count, cut.keep_last] = -value if measure.higher_is_better else value
    return costs


def _largest(costs: Costs) -> tuple[int, bool] | None:
    """The cut to speak of: more than one kind to compare, then most layers, most kinds, least cost."""
    if not costs:
        return None

    def merit(cut: tuple[int, bool]) -> tuple[bool, int, int, float]:
        there = [costs[drop, *cut] for drop in _NAMES if (drop, *cut) in costs]
        return len(there) > 1, cut[0], len(there), -sum(there)

    return max({(count, keep) for _, count, keep in costs}, key=merit)


def _verb(cost: float, measure: Measure, ending: str = "") -> str:
    """ "cost 0.669", or "gain 0.3" where a score got better."""
    word = "gain" if cost < 0 else "cost"
    return f"{word}{ending} {format_score(abs(cost), measure.unit)}"


def _of_the_whole(report: Report, measure: Measure) -> str:
    base = whole(report)
    value = score(base, measure) if base else None
    cuts = [cell for cell in report.cells if cell.variant.removed]
    if len(cuts) == 1 and (after := score(cuts[0], measure)) is not None:
        before = f", {_with_unit(value, measure)} before" if value is not None else ""
        name = cuts[0].variant.name
        return f"{measure.label} is {_with_unit(after, measure)} after {name}{before}."
    if value is None:
        return "Nothing is finished yet."
    return f"{measure.label} of the whole model is {_with_unit(value, measure)}."


def _with_unit(value: float, measure: Measure) -> str:
    return f"{format_score(value, measure.unit)} {unit_words(measure)}".rstrip()
