"""The operation: ``surgeon.bench`` and ``surgeon bench``. What is measured is kept at once.

transformers goes in rounds, onnxruntime by turns. A report that is there already is gone on with: what
it has is not measured again, but for the whole model, which is timed beside whatever else is.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from surgeon.accounting import Costs, costs
from surgeon.checkpoint.header import count
from surgeon.checkpoint.source import Checkpoint, expand, open_checkpoint, open_local
from surgeon.errors import SurgeonError
from surgeon.measure.grid import WHOLE, Variant, cut
from surgeon.measure.latency import engines, rounds, settings, turns
from surgeon.measure.latency.failures import SMALLER, told
from surgeon.measure.latency.files import check_same, keep, locked, read, save
from surgeon.measure.latency.grids import choose_grid
from surgeon.measure.latency.settings import Settings
from surgeon.measure.latency.values import Bench, Progress, Task, parse_tasks
from surgeon.measure.results import Subject
from surgeon.measure.shapes import SHAPES, find_shape, make
from surgeon.plan import Plan
from surgeon.rule import Choice
from surgeon.surgery import Operation, operate, operation_costs

Grid = Callable[[Checkpoint], Sequence[Variant]]
"""What to measure of a model: known only once it is open."""

_RAM = Path("/dev/shm")


@dataclass(frozen=True)
class Outcome:
    """The report; how many cells ``minutes`` left unfinished; tasks beyond the model's context."""

    report: Bench
    unfinished: int
    beyond_context: tuple[Task, ...]
    seconds: float


def bench(
    model: str | os.PathLike[str] | None = None,
    cuts: Grid | Sequence[Plan] | None = None,
    *,
    shape: str | None = None,
    runtime: str = "transformers",
    lengths: str = "50,100",
    decode: str = "none",
    sequences: int | None = None,
    tokens: int = 30,
    dtype: str = "auto",
    device: str = "auto",
    cuda_graph: bool = True,
    threads: int = 0,
    minutes: float | None = None,
    output: str | os.PathLike[str] | None = None,
    work: str | os.PathLike[str] | None = None,
    notify: Callable[[str], None] = lambda words: None,
    advance: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Times a model and its cuts: one new token after a prompt, or over a cache.

    Either ``model`` or ``shape`` (a name of ``measure.shapes``: random weights). ``cuts`` are plans, or
    what gives variants of the open model; None is the paper's grid. The whole model is always measured
    beside them. ``lengths`` and ``decode`` are tasks as ``parse_tasks`` reads them, ``sequences`` the
    number of prompts of each length (1000 on CUDA, 100 on a CPU), ``tokens`` that of decode steps.
    transformers measures each task in rounds, all variants side by side; onnxruntime measures one cut
    after the other in processes of their own, the whole model first and last. ``minutes`` is a budget:
    no round and no cut is begun that would go beyond it. In rounds a task has fewer prompts then, the
    same for all variants, and the first task has at least those of one round.

    ``output`` is a folder: bench.json is written after each task in rounds, else after each cell, and
    the rest at the end. When called again, what is there is not measured again, be it of fewer prompts;
    a task in rounds that an error or a kill cut off starts anew. ``work`` is a folder for what
    onnxruntime reads. ``notify`` gets words on the way.

    Raises SurgeonError for a model that cannot be run, for a report of other settings, and when memory
    runs out; what is finished stays in ``output``.
    """
    start = time.monotonic()
    if (model is None) == (shape is None):
        both = ", not both" if model is not None else ""
        raise SurgeonError(f"bench: give MODEL or --shape NAME{both}; NAME is of {', '.join(SHAPES)}")
    tasks = parse_tasks(lengths, decode)
    chosen = settings.make_settings(runtime, device, sequences, tokens, cuda_graph, threads)
    folder = expand(output) if output is not None else None
    size = 0
    if shape is not None:
        kind = settings.choose_dtype(chosen, dtype, None)
        size = settings.BYTES[kind] * sum(count(size) for _, size in find_shape(shape).tensors())
    with locked(folder), _workplace(work, size if runtime == "onnxruntime" else 0) as place:
        there = read(folder) if folder is not None else None
        opened = _open(model, shape, chosen, dtype, place)
        checkpoint = opened.checkpoint
        variants = [WHOLE, *(v for v in _variants(checkpoint, cuts) if v.removed)]
        operations = {v.name: _operation(checkpoint, v) for v in variants}
        report = _report(opened, operations)
        if there is not None and folder is not None:
            check_same(there, report, folder)
            report = replace(report, costs=there.costs | report.costs, cells=there.cells)
        fitting, beyond = _fitting(checkpoint, chosen, tasks)
        deadline = start + minutes * 60 if minutes is not None else float("inf")
        measured = _begin(opened, operations, variants, fitting, report, deadline, notify)
        try:
            for progress in measured:
                if progress.report is not report:  # once for all the cells of a task
                    report = progress.report
                    if folder is not None:
                        keep(report, folder)
                advance(progress)
        finally:
            if folder is not None:
                save(report, folder)  # also where nothing was left to do: as this version words it
    unfinished = sum(not report.find(variant, task) for variant in variants for task in fitting)
    return Outcome(report, unfinished, beyond, time.monotonic() - start)


@contextmanager
def _workplace(work: str | os.PathLike[str] | None, size: int) -> Iterator[Path]:
    """A folder for weights and graphs, gone afterwards: in memory if nobody names another and ``size``
    bytes have room there."""
    parent = expand(work) if work is not None else None
    if parent is None and size and os.access(_RAM, os.W_OK) and shutil.disk_usage(_RAM).free > size:
        parent = _RAM
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix="surgeon-bench-", dir=parent))
    except OSError as error:
        raise SurgeonError(f"{error.filename or parent}: {error.strerror or error}") from None
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@dataclass(frozen=True)
class _Opened:
    """What is measured, and how. ``shape`` is the name of random weights, ``dtype`` what it runs in,
    ``place`` a folder to write to."""

    checkpoint: Checkpoint
    shape: str | None
    settings: Settings
    dtype: str
    place: Path


def _open(
    model: str | os.PathLike[str] | None, shape: str | None, chosen: Settings, dtype: str, place: Path
) -> _Opened:
    """The checkpoint and the dtype to run it in; of a shape only the names are written here."""
    if shape is not None:
        kind = settings.choose_dtype(chosen, dtype, None)
        make(shape, place / shape, engines.SAFETENSORS[kind], weights=False)
        checkpoint = open_checkpoint(place / shape)
    else:
        assert model is not None
        checkpoint, _ = open_local(model)
        kind = settings.choose_dtype(chosen, dtype, settings.own_dtype(checkpoint))
    return _Opened(checkpoint, shape, chosen, kind, place)


def _variants(checkpoint: Checkpoint, cuts: Grid | Sequence[Plan] | None) -> Sequence[Variant]:
    if isinstance(cuts, Sequence):
        return [cut(plan) for plan in cuts]
    return (cuts or choose_grid())(checkpoint)


def _operation(checkpoint: Checkpoint, variant: Variant) -> Operation | None:
    if not variant.removed:
        return None
    structure = checkpoint.structure
    plan = Plan(structure.num_layers, variant.removed, structure.absent)
    return operate(checkpoint, Choice(plan), False, 1 << 62)


def _report(opened: _Opened, operations: dict[str, Operation | None]) -> Bench:
    """The report without a cell."""
    checkpoint, shape, chosen, kind = opened.checkpoint, opened.shape, opened.settings, opened.dtype
    sizes = {name: _costs(checkpoint, operation, kind) for name, operation in operations.items()}
    subject = Subject(
        model=shape or checkpoint.source.name,
        revision=checkpoint.source.revision,
        fingerprint=checkpoint.fingerprint,
        num_layers=checkpoint.structure.num_layers,
        parameters=sizes[WHOLE.name].parameters,
        dtype=kind,
        device=settings.device_name(chosen.device),
        versions=settings.versions(chosen.runtime),
    )
    return Bench(subject, {"shape": shape, **chosen.to_json()}, sizes, ())


def _costs(checkpoint: Checkpoint, operation: Operation | None, kind: str) -> Costs:
    """What a cut costs on disk, in the checkpoint's dtype, and in its cache, in that of the run."""
    if operation is None:
        structure = checkpoint.structure
        found = costs(structure, checkpoint.tensors.values(), sum(checkpoint.shards.values()))
    else:
        structure = operation.structure
        found = operation_costs(operation)[1]
    kv = 2 * structure.dims.kv_width * structure.num_attentions * settings.BYTES[kind]
    return replace(found, kv_bytes_per_token=kv)


def _fitting(
    checkpoint: Checkpoint, chosen: Settings, tasks: Sequence[Task]
) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """The tasks within the model's context, of which there must be one, and those beyond it."""
    context = int(checkpoint.config.get("max_position_embeddings") or 1 << 30)
    fitting = tuple(task for task in tasks if chosen.room(task) <= context)
    if not fitting:
        raise SurgeonError(
            f"bench: the model has {context} positions, fewer than every task needs; ask for shorter "
            "--lengths or --decode"
        )
    return fitting, tuple(task for task in tasks if task not in fitting)


def _begin(
    opened: _Opened,
    operations: dict[str, Operation | None],
    variants: Sequence[Variant],
    tasks: Sequence[Task],
    report: Bench,
    deadline: float,
    notify: Callable[[str], None],
) -> Iterator[Progress]:
    """Makes the runtime ready if a report lacks something; that is measured as the iterator goes on."""
    checkpoint, shape, chosen, kind = opened.checkpoint, opened.shape, opened.settings, opened.dtype
    about = f"{report.subject.model}: {chosen.runtime}, {kind}, {report.subject.device}"
    if chosen.runtime == "transformers":
        if not (jobs := rounds.todo(report, variants, tasks)):
            return iter(())
        notify(about)
        with told("whole", SMALLER):
            engine = engines.transformers_engine(checkpoint, chosen, kind, shape)
        return rounds.run(engine, operations, jobs, report, chosen.sequences, deadline, notify)
    if not (todo := turns.todo(report, variants, tasks)):
        return iter(())
    notify(about)
    with told("whole", SMALLER):
        start = engines.onnxruntime_engine(checkpoint, chosen, kind, shape, opened.place)
    return turns.run(start, operations, todo, report, deadline, notify)
