"""One variant after the other, the whole model first and last: for runtimes that hold one at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from surgeon.measure.grid import WHOLE, Variant
from surgeon.measure.latency.engines import Engine
from surgeon.measure.latency.failures import SHORTER, SMALLER, told
from surgeon.measure.latency.values import Bench, Cell, Progress, Task
from surgeon.surgery import Operation

Turn = tuple[Variant, tuple[Task, ...]]
"""Tasks to time in a cut, one after the other."""


def todo(report: Bench, variants: Sequence[Variant], tasks: Sequence[Task]) -> list[Turn]:
    """What a report lacks, the whole model before and after the cuts."""
    turns = [(v, tuple(t for t in tasks if not report.find(v, t))) for v in variants if v != WHOLE]
    turns = [(variant, some) for variant, some in turns if some]
    wanted = {task for _, some in turns for task in some}
    whole = tuple(t for t in tasks if t in wanted or not report.find(WHOLE, t))
    again = [(WHOLE, tuple(t for t in tasks if t in wanted))] if wanted else []
    return [*([(WHOLE, whole)] if whole else []), *turns, *again]


class _Budget:
    """Whether there is time for one more cut and for the whole model's last turn after it."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._start = self._last = time.monotonic()
        self._longest = self._whole = 0.0

    def cell(self) -> float:
        """Counts a finished cell; the seconds since the start."""
        now = time.monotonic()
        self._longest, self._last = max(self._longest, now - self._last), now
        return now - self._start

    def whole(self) -> None:
        """Takes the time so far for that of one turn of the whole model."""
        self._whole = time.monotonic() - self._start

    @property
    def spent(self) -> bool:
        return time.monotonic() + self._longest + self._whole > self._deadline


def run(
    engine: Engine,
    operations: dict[str, Operation | None],
    turns: Sequence[Turn],
    report: Bench,
    deadline: float,
    notify: Callable[[str], None],
) -> Iterator[Progress]:
    """Cell after cell. The whole model has its turns whatever the budget says, the last one only after
    a cut."""
    total, done, any_cut = sum(len(tasks) for _, tasks in turns), 0, False
    budget = _Budget(deadline)
    for number, (variant, tasks) in enumerate(turns):
        is_cut = variant != WHOLE
        if budget.spent if is_cut else number and not any_cut:
            continue
        with told(variant.name, SMALLER), engine(operations[variant.name]) as (measure, load):
            for task in tasks:
                if is_cut and budget.spent:
                    break
                name = f"{variant.name}: {task.name}"

                def estimate(seconds: float, name: str = name) -> None:
                    if seconds > 2:
                        notify(f"{name}: about {seconds:.0f} s")

                before = time.monotonic()
                with told(name, SHORTER):
                    timing, peak = measure(task, estimate)
                cell = Cell(variant, task, timing, peak, load, time.monotonic() - before)
                report = replace(report, cells=(*report.cells, cell))
                done, any_cut = done + 1, any_cut or is_cut
                spent = budget.cell()
                yield Progress(report, cell, done, total, spent / done * (total - done))
        if number == 0:
            budget.whole()
