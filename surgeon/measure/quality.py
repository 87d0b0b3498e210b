"""What a cut costs: the scores of one variant of a model, or of a whole grid of them."""

import os
from collections.abc import Callable, Sequence

from surgeon.checkpoint.source import expand
from surgeon.errors import SurgeonError
from surgeon.measure.files import write_report
from surgeon.measure.gather import Engine, gather, local_engine
from surgeon.measure.grid import FRACTIONS, WHOLE, Variant, cut, grid
from surgeon.measure.journal import Journal
from surgeon.measure.opened import Opened
from surgeon.measure.paper import choose, quality
from surgeon.measure.prepared import Prepared, Settings
from surgeon.measure.results import Cell, Report
from surgeon.plan import DROPS, Plan
from surgeon.rule import Rule

Notify = Callable[[str], None]
"""Takes a line for people."""

Progress = Callable[[int, int], None]
"""Gets the tokens that are done, under all variants, and those that this run has to do."""


def _silent(words: str) -> None:
    pass


def _unseen(done: int, total: int) -> None:
    pass


def evaluate(
    model: str | os.PathLike[str],
    settings: Settings | Sequence[Settings],
    plan: Plan | Rule | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    notify: Notify = _silent,
    progress: Progress = _unseen,
) -> Report:
    """Measures one variant of a model: the whole one, or a virtual cut, for which nothing is written.

    ``settings`` say what is measured, ``TextSettings`` for example. The report has one cell.
    Raises SurgeonError for a model, a cut or settings that do not fit, before anything is computed.
    """
    opened = Opened.open(model, device, dtype)
    variant = WHOLE if plan is None else cut(_plan(plan, opened))
    prepared = _prepare(settings, opened, batch_size, notify)
    return measure(
        opened, [variant], prepared, local_engine(opened, batch_size, notify), progress=progress
    )


def sweep(
    model: str | os.PathLike[str],
    settings: Settings | Sequence[Settings],
    output: str | os.PathLike[str],
    *,
    drops: Sequence[str] = tuple(DROPS),
    fractions: Sequence[str] = FRACTIONS,
    keep_last: str = "both",
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int | None = None,
    paper: str = "auto",
    engine: Callable[[Opened], Engine] | None = None,
    notify: Notify = _silent,
    progress: Progress = _unseen,
) -> Report:
    """Measures the whole model and a grid of cuts of it, in one process with the weights loaded once.

    Variants share the computation of every sublayer before their first difference. What is scored is
    at once in the journal of the folder ``output``: a killed sweep continues where it stopped, and a
    grid may grow later. In the end the folder holds the report as well, with the numbers of the paper's
    model ``paper`` beside it: a key of ``surgeon.measure.paper.MODELS``, "none", or "auto" for those of
    the same model. ``engine`` computes in another way than this process does.

    Raises SurgeonError for a model, a grid or settings that do not fit, for a folder of another
    measurement, before anything is computed; and naming the variant, if logits are not numbers.
    """
    folder = expand(output)
    opened = Opened.open(model, device, dtype)
    printed = choose(paper, opened.name)
    variants = grid(opened.num_layers, drops, fractions, keep_last, opened.absent, notify)
    prepared = _prepare(settings, opened, batch_size, notify)
    computing = engine(opened) if engine else local_engine(opened, batch_size, notify)
    with Journal(folder, _identity(opened, prepared)) as journal:
        report = measure(opened, variants, prepared, computing, journal, progress)
        write_report(report, folder, quality(printed) if printed else None, os.fspath(model))
    return report


def measure(
    opened: Opened,
    variants: Sequence[Variant],
    prepared: Sequence[Prepared],
    engine: Engine,
    journal: Journal | None = None,
    progress: Progress = _unseen,
) -> Report:
    """The scores of all variants in all that was prepared, as a report."""
    items = [item for one in prepared for item in one.items]
    cells = []
    results = gather(items, variants, engine, journal, progress)
    for variant, result in zip(variants, results, strict=True):
        values: dict[str, float] = {}
        stderr: dict[str, float] = {}
        start = 0
        for one in prepared:
            found = one.summarize(variant, result.scores[start : start + len(one.items)])
            start += len(one.items)
            values |= found.values
            stderr |= found.stderr
        cells.append(Cell(variant, values, stderr, result.seconds))
    return Report(
        subject=opened.subject(),
        settings={key: value for one in prepared for key, value in one.settings.items()},
        measures=tuple(measure for one in prepared for measure in one.measures),
        cells=tuple(cells),
    )


def check_place(file: str | os.PathLike[str]) -> None:
    """Refuses a file that a report cannot be written to."""
    path = expand(file)
    if path.is_dir():
        raise SurgeonError(f"{path}: is a folder; give a file for -o")
    if not path.parent.is_dir():
        raise SurgeonError(f"{path.parent}: no such folder; make it, or give another file for -o")


def _plan(plan: Plan | Rule, opened: Opened) -> Plan:
    if isinstance(plan, Rule):
        return plan.of(opened.checkpoint).plan
    if plan.num_layers != opened.num_layers:
        raise SurgeonError(
            f"plan: made for {plan.num_layers} layers, but {opened.name} has {opened.num_layers}"
        )
    return Plan(plan.num_layers, plan.removed, opened.absent)


def _prepare(
    settings: Settings | Sequence[Settings], opened: Opened, batch_size: int | None, notify: Notify
) -> list[Prepared]:
    if batch_size is not None and batch_size < 1:
        raise SurgeonError(f"--batch-size {batch_size} is too few; give 1 or more")
    several = settings if isinstance(settings, Sequence) else [settings]
    return [one.prepare(opened, notify) for one in several]


def _identity(opened: Opened, prepared: Sequence[Prepared]) -> dict[str, object]:
    """What a journal is about: scores of another one must not be taken for these."""
    return {
        "model": opened.fingerprint,
        "device": opened.device,
        "dtype": opened.dtype,
        "settings": [one.identity for one in prepared],
    }
