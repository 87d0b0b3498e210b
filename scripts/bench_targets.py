"""What bench_onnx.py measured against what the graph has to reach: pure, from the rows alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measurement; times in milliseconds, ``floor`` the time to read ``bytes`` once.

    Of the task "load" ``bytes`` are those of the files, and ``floor`` is the time of reading them.
    """

    cut: str
    engine: str
    task: str
    milliseconds: float
    p95: float
    bytes: int
    floor: float

    @property
    def over_floor(self) -> float | None:
        """How many times the floor it took; None where no floor is known."""
        return self.milliseconds / self.floor if self.floor else None


@dataclass(frozen=True)
class Target:
    """A ratio and its bound. ``at_least``: whether larger is better."""

    cut: str
    task: str
    what: str
    ratio: float
    bound: float
    at_least: bool

    @property
    def passed(self) -> bool:
        """Whether it is reached."""
        return self.ratio >= self.bound if self.at_least else self.ratio <= self.bound


TO_EAGER = {True: 3.0, False: 1.0}
"""On CUDA, and on a CPU, where eager is not bound by launches."""

TO_COMPILE = 1.0
TO_FLOOR = 1.5
OF_BYTES = 0.9
OF_READING = 1.5
INT4_GAIN = 2.0


def targets(rows: Iterable[Row], cuda: bool) -> Iterator[Target]:
    """Every ratio that can be had from the rows, task by task.

    Our graph counts as a CUDA graph where it was measured as one, else as it comes.
    """
    times = {(row.cut, row.engine, row.task): row for row in rows}
    for (cut, engine, task), row in times.items():
        ours = times.get((cut, "cuda-graph", task)) or times.get((cut, "graph", task))
        if task == "load":
            if engine in ("graph", "cuda-graph", "int4") and row.floor:
                what = f"{engine}: loading over reading"
                yield Target(cut, task, what, row.milliseconds / row.floor, OF_READING, False)
        elif ours is None:
            continue
        elif engine == "eager":
            gain = row.milliseconds / ours.milliseconds
            yield Target(cut, task, "eager over our graph", gain, TO_EAGER[cuda], True)
        elif engine == "compile":
            gain = row.milliseconds / ours.milliseconds
            yield Target(cut, task, "torch.compile over our graph", gain, TO_COMPILE, True)
        elif engine == "int4" and task.startswith("decode") and task.endswith(" x1"):
            gain = ours.milliseconds / row.milliseconds
            yield Target(cut, task, "16 bits over 4 bits", gain, INT4_GAIN, True)
        elif row is ours:
            yield from _of_our_graph(times.get(("whole", engine, task)), row)


def _of_our_graph(whole: Row | None, row: Row) -> Iterator[Target]:
    over = row.over_floor
    if over is not None and row.task.startswith("decode") and row.task.endswith(" x1"):
        yield Target(row.cut, row.task, "our graph over the floor", over, TO_FLOOR, False)
    if whole is not None and row.cut != "whole":
        saved = 1 - row.milliseconds / whole.milliseconds
        removed = 1 - row.bytes / whole.bytes
        what = "time saved over bytes removed"
        yield Target(row.cut, row.task, what, saved / removed, OF_BYTES, True)


def summary(found: Iterable[Target]) -> Iterator[str]:
    """A line for each target, what failed marked, and the count."""
    passed, lines = 0, list(found)
    for target in lines:
        sign = ">=" if target.at_least else "<="
        verdict = "PASS" if target.passed else "FAIL"
        passed += target.passed
        yield (
            f"{verdict}  {target.cut:8}{target.task:20}{target.what:32}"
            f"{target.ratio:6.2f}  {sign} {target.bound:.2f}"
        )
    yield f"{passed} of {len(lines)} targets reached"
