"""Times as values: tasks, what was measured for each cut, and what follows from it.

Pure. Times are milliseconds of wall clock, each with the choice of the token and its way to the
host; sizes are bytes.
"""

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from surgeon.accounting import Costs
from surgeon.errors import SurgeonError
from surgeon.measure.grid import WHOLE, Variant
from surgeon.measure.results import Subject

FORMAT = 1
"""The number of this layout of bench.json; files of another one are refused."""


@dataclass(frozen=True)
class Task:
    """Something to time: one new token.

    "prefill": after a prompt of ``length`` tokens, as the paper did. "decode": over a cache of
    ``length`` tokens in each of ``batch`` rows.
    """

    kind: str
    length: int
    batch: int = 1

    @property
    def name(self) -> str:
        """ "prefill 50", "decode 4000 x16"."""
        return f"{self.kind} {self.length}" + (f" x{self.batch}" if self.kind == "decode" else "")

    @property
    def words(self) -> str:
        """In running text."""
        if self.kind == "prefill":
            return f"one token after a prompt of {self.length}"
        return f"decode, {self.length:,} cached, batch {self.batch}"


@dataclass(frozen=True)
class Timing:
    """``count`` times in milliseconds; ``p95`` is the 95th percentile, ``stdev`` that of a sample.

    ``warmup`` runs do not count: they came before, in rounds before each. Decoding is timed in a second
    pass over the same lengths; ``first_pass`` is the median of the first, in which a runtime may still
    plan.
    """

    count: int
    mean: float
    median: float
    p95: float
    stdev: float
    fastest: float
    warmup: int
    first_pass: float | None = None

    @classmethod
    def of(cls, times: Sequence[float], warmup: int, first_pass: float | None = None) -> Self:
        """The statistics of at least one time."""
        several = len(times) > 1
        return cls(
            count=len(times),
            mean=statistics.fmean(times),
            median=statistics.median(times),
            p95=statistics.quantiles(times, n=20, method="inclusive")[18] if several else times[0],
            stdev=statistics.stdev(times) if several else 0.0,
            fastest=min(times),
            warmup=warmup,
            first_pass=first_pass,
        )


@dataclass(frozen=True)
class Cell:
    """One task in one cut. ``peak_bytes`` as the report's settings say; ``load`` and ``seconds``: of
    making the model ready, and of the task with its warm-up."""

    variant: Variant
    task: Task
    timing: Timing
    peak_bytes: int | None
    load: float
    seconds: float


@dataclass(frozen=True)
class Bench:
    """All that was measured of one model in one runtime, in the order in which it was finished.

    The whole model comes twice in each run, so that drift shows: at the start and at the end, or with
    the times of every other round. ``settings`` are those that times depend on; ``costs`` are by the
    names of the variants.
    """

    subject: Subject
    settings: dict[str, Any]
    costs: dict[str, Costs]
    cells: tuple[Cell, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in bench.json."""
        return {
            "format": FORMAT,
            "subject": asdict(self.subject),
            "settings": self.settings,
            "costs": {name: asdict(costs) for name, costs in self.costs.items()},
            "cells": [{**asdict(cell), "variant": cell.variant.to_json()} for cell in self.cells],
        }

    @classmethod
    def from_json(cls, data: Any, where: str) -> Self:
        """Reads what ``to_json`` wrote; SurgeonError, naming ``where``, on anything else."""
        try:
            if data["format"] != FORMAT:
                raise SurgeonError(
                    f"{where}: is of format {data['format']}, not {FORMAT}; measure anew"
                )
            return cls(
                Subject(**data["subject"]),
                dict(data["settings"]),
                {name: Costs(**costs) for name, costs in data["costs"].items()},
                tuple(_cell(cell) for cell in data["cells"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SurgeonError(f"{where}: is not a report of surgeon bench ({error!r})") from None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those with at least one time, in their order."""
        return tuple(
            sorted({c.task for c in self.cells}, key=lambda t: (t.kind != "prefill", t.batch, t.length))
        )

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Those with at least one time, in their order."""
        return tuple({cell.variant.name: cell.variant for cell in self.cells}.values())

    def find(self, variant: Variant, task: Task) -> tuple[Cell, ...]:
        """The cells of a task in a variant: more than one for the whole model alone."""
        return tuple(c for c in self.cells if c.variant == variant and c.task == task)

    def baseline(self, task: Task) -> float | None:
        """The whole model's time: the mean of the medians of all its turns."""
        medians = [cell.timing.median for cell in self.find(WHOLE, task)]
        return statistics.fmean(medians) if medians else None

    def drift(self, task: Task) -> float | None:
        """Largest difference between two turns of the whole model, in percent of the baseline."""
        medians = [cell.timing.median for cell in self.find(WHOLE, task)]
        if len(medians) < 2:
            return None
        return 100 * (max(medians) - min(medians)) / statistics.fmean(medians)

    def improvement(self, variant: Variant, task: Task) -> float | None:
        """By how many percent of the whole model's time a cut is faster, by their medians."""
        base, found = self.baseline(task), self.find(variant, task)
        if base is None or not found or variant == WHOLE:
            return None
        return 100 * (1 - found[-1].timing.median / base)


@dataclass(frozen=True)
class Progress:
    """A finished cell: the number ``done`` of ``total`` of this run; ``left`` seconds by what they took
    so far. ``report`` has it, and others that were finished with it."""

    report: Bench
    cell: Cell
    done: int
    total: int
    left: float


def _cell(data: dict[str, Any]) -> Cell:
    parts = {
        "variant": Variant.from_json(data["variant"]),
        "task": Task(**data["task"]),
        "timing": Timing(**data["timing"]),
    }
    return Cell(**{**data, **parts})


def parse_tasks(lengths: str, decode: str) -> tuple[Task, ...]:
    """ "50,100" and "100x1,4000x16" as tasks, "none" as none of a kind; SurgeonError otherwise."""
    tasks = [Task("prefill", *_numbers(item, "--lengths", 1)) for item in _items(lengths)]
    tasks += [Task("decode", *_numbers(item, "--decode", 2)) for item in _items(decode)]
    if not tasks:
        raise SurgeonError("bench: there is nothing to time; give --lengths or --decode")
    return tuple(dict.fromkeys(tasks))


def _items(text: str) -> Iterable[str]:
    return () if text.strip().lower() in ("", "none") else text.split(",")


def _numbers(text: str, flag: str, count: int) -> tuple[int, ...]:
    match = re.fullmatch("x".join([r"([1-9]\d{0,6})"] * count), text.strip(), re.ASCII)
    if match is None:
        example = "50,100" if count == 1 else "100x1,4000x16 (tokens x batch)"
        raise SurgeonError(f"{flag} {text.strip()!r} is not understood; write {example}, or none")
    return tuple(int(number) for number in match.groups())
