"""Times as tables: the paper's own layout, then every figure."""

from collections.abc import Iterator

from surgeon.measure.document import Entry, Table
from surgeon.measure.grid import WHOLE, Variant
from surgeon.measure.latency.values import Bench, Task
from surgeon.measure.paper import choose
from surgeon.measure.paper import latency as printed_times
from surgeon.measure.tables import DROP_NAMES, kept_percent
from surgeon.plan import DROPS, parse_fraction
from surgeon.units import format_count, format_size

NOTHING = Entry("")


def layout_tables(report: Bench) -> Iterator[Table]:
    """Tables 7-10: for each task, the last layer cut and kept, a row for each share of layers kept."""
    for task in report.tasks:
        for keep_last in (False, True):
            found = {
                (v.drop, v.fraction): v
                for v in report.variants
                if v.drop and v.fraction and v.keep_last == keep_last
            }
            if found:
                yield _layout(report, task, keep_last, found)


def _layout(report: Bench, task: Task, keep_last: bool, found: dict[tuple[str, str], Variant]) -> Table:
    drops = [drop for drop in DROPS if any(d == drop for d, _ in found)]
    fractions = sorted({fraction for _, fraction in found}, key=parse_fraction)
    in_paper = task.kind == "prefill" and choose("auto", report.subject.model) is not None
    printed = {
        (row.drop, row.fraction): row.improvement
        for row in printed_times()
        if in_paper and (row.prompt_tokens, row.keep_last) == (task.length, keep_last)
    }
    span = 3 if printed else 2
    columns = ("ms", "faster", "paper")[:span]

    def fields(drop: str, fraction: str) -> tuple[Entry, ...]:
        variant = found.get((drop, fraction))
        cells = report.find(variant, task) if variant else ()
        time = ms(cells[-1].timing.median) if cells else _missing()
        faster = percent(report.improvement(variant, task)) if variant else NOTHING
        return (time, faster, percent(printed.get((drop, fraction))))[:span]

    base = report.baseline(task)
    whole = (ms(base) if base is not None else _missing(), NOTHING, NOTHING)[:span]
    rows = [(Entry("100 %"), *(whole * len(drops)))]
    for fraction in fractions:
        groups = (fields(drop, fraction) for drop in drops)
        rows.append((Entry(f"{kept_percent(fraction)} %"), *(e for group in groups for e in group)))
    tables = {(50, False): 7, (50, True): 8, (100, False): 9, (100, True): 10}
    number = tables.get((task.length, keep_last)) if task.kind == "prefill" else None
    as_printed = f" (as Table {number} of the paper)" if number else ""
    last = "last layer kept" if keep_last else "last layers cut"
    notes = [drift_words(report, task)]
    if printed:
        notes.append(
            "Columns named paper: as printed there for Llama-2-7B on another GPU, not measured here."
        )
    return Table(
        caption=f"{start(task.words)}, {last}{as_printed}",
        columns=("kept", *(columns * len(drops))),
        rows=tuple(rows),
        note=" ".join(note for note in notes if note),
        groups=(("", 1), *((DROP_NAMES[drop], span) for drop in drops)),
    )


def figures_table(report: Bench, task: Task) -> Table:
    """Mean, median, 95th percentile, spread, fastest: of each variant, the whole model at each turn."""
    decode = task.kind == "decode"
    rows = []
    for variant in report.variants:
        for number, cell in enumerate(report.find(variant, task), start=1):
            times = cell.timing
            first = () if times.first_pass is None else (ms(times.first_pass),)
            peak = "-" if cell.peak_bytes is None else format_size(cell.peak_bytes)
            rows.append(
                (
                    Entry(variant.name if variant != WHOLE else f"whole, turn {number}"),
                    *map(ms, (times.mean, times.median, times.p95, times.stdev, times.fastest)),
                    *(first if decode else ()),
                    Entry(str(times.count)),
                    percent(report.improvement(variant, task)),
                    Entry(peak),
                )
            )
    first_pass = ("first pass",) if decode else ()
    figures = ("mean", "median", "95 % below", "std. dev.", "fastest", *first_pass)
    return Table(
        caption=f"{start(task.words)}: every figure, in milliseconds",
        columns=("", *figures, "times", "faster", "peak memory"),
        rows=tuple(rows),
        note=drift_words(report, task),
    )


def drift_words(report: Bench, task: Task) -> str:
    """How far the whole model's turns are apart, which no difference between cuts should be below."""
    drift = report.drift(task)
    return "" if drift is None else f"The whole model's turns differ by {drift:.1f} %."


def sizes_table(report: Bench) -> Table:
    """Parameters, bytes on disk and in the KV cache."""
    rows = []
    for variant in report.variants:
        costs = report.costs[variant.name]
        sizes = (costs.disk_bytes, costs.kv_bytes_per_token)
        entries = (Entry(format_size(size)) for size in sizes)
        rows.append((Entry(variant.name), Entry(format_count(costs.parameters)), *entries))
    columns = ("", "parameters", "weights on disk", "KV cache per token")
    return Table("Sizes", columns, tuple(rows))


def ms(value: float) -> Entry:
    """Milliseconds; three digits below ten, so that 1 % shows."""
    return Entry(f"{value:.3f}" if value < 10 else f"{value:.2f}")


def percent(value: float | None) -> Entry:
    """With one digit behind the point; an empty field for None."""
    return NOTHING if value is None else Entry(f"{value:.1f} %".replace("-", "\N{MINUS SIGN}"))


def start(text: str) -> str:
    """With a capital letter."""
    return text[:1].upper() + text[1:]


def _missing() -> Entry:
    return Entry("not finished", missing=True)
