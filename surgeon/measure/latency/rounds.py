"""All variants side by side: a task in rounds, in each of which every variant has a share of it.

For a runtime that holds all variants at once. Where the machine is shared and slows down for a while,
all of them are slowed alike; measured one after the other, some cuts would be and others not.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from surgeon.measure.grid import WHOLE, Variant
from surgeon.measure.latency.failures import SHORTER, SMALLER, told
from surgeon.measure.latency.loops import WARMUP, Times, timing
from surgeon.measure.latency.values import Bench, Cell, Progress, Task
from surgeon.surgery import Operation

ROUNDS = 10
"""Of prompts, which are shared out to them; never more than there are prompts."""

DECODE_ROUNDS = 3
"""Of decoding. A cache can take tens of gigabytes, so there is one at a time: in every round each
variant runs its prompts and the first pass anew, and more rounds would be little else."""

LATER_WARMUP = 2
"""Steps of warm-up after the first round, when kernels are chosen and libraries' caches full: the first
takes memory anew, since each share begins with an empty pool, the second is like those that count."""

Measure = Callable[[Task, range, int], tuple[Times, int | None]]
"""Times prompts of these numbers after so many steps of warm-up; with the peak bytes."""

Open = Callable[[Operation | None], tuple[Measure, float]]
"""Opens a cut, or the whole model for None, beside those that are open; with the seconds it took."""

Job = tuple[Task, tuple[Variant, ...]]
"""What to time side by side."""


@dataclass(frozen=True)
class Share:
    """A variant's part of a round; ``seconds`` with its warm-up."""

    times: Times
    peak: int | None
    seconds: float


def todo(report: Bench, variants: Sequence[Variant], tasks: Sequence[Task]) -> list[Job]:
    """What a report lacks. The whole model runs beside cuts even if it has times already, since those
    are of another hour."""
    jobs = []
    for task in tasks:
        cuts = [v for v in dict.fromkeys(variants) if v != WHOLE and not report.find(v, task)]
        if cuts or not report.find(WHOLE, task):
            jobs.append((task, (WHOLE, *cuts)))
    return jobs


def count_rounds(task: Task, sequences: int) -> int:
    """Of a task with so many prompts, if nothing ends it."""
    return DECODE_ROUNDS if task.kind == "decode" else min(ROUNDS, sequences)


def numbers(task: Task, sequences: int, number: int) -> range:
    """Those of the prompts of a round: a share of ``sequences``; for decoding, one of its own."""
    if task.kind == "decode":
        return range(number, number + 1)
    count = count_rounds(task, sequences)
    return range(sequences * number // count, sequences * (number + 1) // count)


def cells(
    task: Task, shares: Mapping[Variant, Sequence[Share]], loads: Mapping[str, float]
) -> tuple[Cell, ...]:
    """A cell for each cut with the times of all rounds, and two for the whole model.

    Its turns are every other round, not the first and the last half: so they see the same hours as the
    cuts. Their mean compares with the cuts' medians even if the machine slows down on the way, and
    they differ by what two equal models would.
    """
    found = []
    for variant, own in shares.items():
        for some in (own[0::2], own[1::2]) if variant == WHOLE else (own,):
            if some:
                peaks = [share.peak for share in some if share.peak is not None]
                times = timing([share.times for share in some])
                spent = sum(share.seconds for share in some)
                load = loads[variant.name]
                found.append(Cell(variant, task, times, max(peaks, default=None), load, spent))
    return tuple(found)


class _Budget:
    """Whether there is time for one more round; the first one has it always."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._longest: float | None = None

    def round(self, seconds: float) -> None:
        """Counts a finished one."""
        self._longest = max(self._longest or 0.0, seconds)

    @property
    def spent(self) -> bool:
        return self._longest is not None and time.monotonic() + self._longest > self._deadline


def run(
    open_variant: Open,
    operations: Mapping[str, Operation | None],
    jobs: Sequence[Job],
    report: Bench,
    sequences: int,
    deadline: float,
    notify: Callable[[str], None],
) -> Iterator[Progress]:
    """Task after task; the cells of one come together, all with the same report.

    No round begins that would end after ``deadline``, by the longest so far: its task has the prompts
    of the rounds before, the same ones for each variant, and the tasks behind it are left.
    """
    start, done = time.monotonic(), 0
    measures: dict[Variant, Measure] = {}
    loads: dict[str, float] = {}
    for variant in dict.fromkeys(variant for _, variants in jobs for variant in variants):
        with told(variant.name, SMALLER):
            measures[variant], loads[variant.name] = open_variant(operations[variant.name])
    total = sum(len(variants) + (count_rounds(task, sequences) > 1) for task, variants in jobs)
    budget = _Budget(deadline)
    for number, (task, variants) in enumerate(jobs, start=1):
        if budget.spent:
            return
        shares = _shares(task, {v: measures[v] for v in variants}, sequences, budget, notify)
        found = cells(task, shares, loads)
        report = replace(report, cells=(*report.cells, *found))
        left = (time.monotonic() - start) / number * (len(jobs) - number)
        for cell in found:
            done += 1
            yield Progress(report, cell, done, total, left)


def _shares(
    task: Task,
    measures: Mapping[Variant, Measure],
    sequences: int,
    budget: _Budget,
    notify: Callable[[str], None],
) -> dict[Variant, list[Share]]:
    """Round after round; backward in every other one, so that none always runs after the same."""
    shares: dict[Variant, list[Share]] = {variant: [] for variant in measures}
    count, start = count_rounds(task, sequences), time.monotonic()
    for number in range(count):
        if budget.spent:
            notify(f"{task.name}: ended after {number} of {count} rounds, as --minutes says")
            break
        before = time.monotonic()
        for variant in list(measures) if number % 2 == 0 else reversed(list(measures)):
            share = _share(variant, measures[variant], task, sequences, number)
            expected = share.seconds * len(measures) * count
            if not any(shares.values()) and expected > 2:
                notify(f"{task.name}: about {expected:.0f} s")  # the first round can be a long one
            shares[variant].append(share)
        now = time.monotonic()
        budget.round(now - before)
        if number + 1 < count:  # after the last come the cells
            left = (now - start) / (number + 1) * (count - number - 1)
            more = f", {left / 60:.1f} min left of it" if left >= 3 else ""
            notify(f"{task.name}: round {number + 1} of {count}{more}")
    return shares


def _share(variant: Variant, measure: Measure, task: Task, sequences: int, number: int) -> Share:
    before = time.monotonic()
    with told(f"{variant.name}: {task.name}", SHORTER):
        warmup = LATER_WARMUP if number else WARMUP
        times, peak = measure(task, numbers(task, sequences, number), warmup)
    return Share(times, peak, time.monotonic() - before)
