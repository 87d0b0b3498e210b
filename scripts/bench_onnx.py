#!/usr/bin/env python3
"""Times generation through our ONNX graph against transformers, whole and cut, in one run.

On a GPU, with random weights of a known shape: transformers eager, torch.compile, our graph, our graph
replayed as a CUDA graph, and with --int4 with weights of 4 bits; the whole model and 33 % of attention,
MLP or blocks dropped. Prefill is one new token after 50 and 100 (the paper's Tables 7-10), decode one
token after 100 and 4,000 cached ones, batch 1 and 16. Each time includes the choice of the token and
its way to the host, for which our graph's next decode step does not wait. Beside each stand the bytes
that must be read, and the time over that floor at this device's measured bandwidth; at the end, what
was to be reached. For each cut each engine has a process of its own, as a server would have. The JSON
is written after every row.

    scripts/bench_onnx.py --shape llama-2-7b --json out.json
    scripts/bench_onnx.py --cpu MODEL                        a trained model on the CPU, in float32
    scripts/bench_onnx.py --shape tiny --device cpu --runs 2 a dry run of the same code
"""

import argparse
import json
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bench_engines import ENGINES, Engine, apart, bandwidth, open_engine, tell
from bench_targets import Row, Target, summary, targets

import surgeon
from surgeon.checkpoint.source import open_checkpoint
from surgeon.inspection import inspect
from surgeon.measure.files import write_file
from surgeon.measure.latency import with_onnxruntime
from surgeon.measure.latency.loops import WARMUP, clock, prompts, time_task
from surgeon.measure.latency.settings import device_name, versions
from surgeon.measure.latency.values import Task, Timing, parse_tasks
from surgeon.measure.shapes import SHAPES, make

Found = TypeVar("Found")

CUTS = ("whole", "attn", "mlp", "block")
ALONE = "model alone 100 x1"
"""A decode step without the choice of the token."""


class OutOfTimeError(BaseException):
    """The budget is spent: what there is gets told. No Exception, which torch.compile would take for a
    failure of its own."""


@dataclass
class Record:
    """The rows so far, and the file that has them."""

    about: dict[str, Any]
    cuda: bool
    path: Path | None
    rows: list[Row] = field(default_factory=list)
    exports: dict[str, float] = field(default_factory=dict)

    @property
    def targets(self) -> list[Target]:
        """What was to be reached, as far as the rows tell."""
        return list(targets(self.rows, self.cuda))

    def add(self, row: Row) -> None:
        """Takes a row, tells it and writes the file anew."""
        self.rows.append(row)
        ratio = f" = {row.over_floor:.2f} x floor" if row.over_floor else ""
        tell(f"{row.cut}: {row.engine}: {row.task}: {row.milliseconds:.3f} ms{ratio}")
        if self.path:
            data = {
                **self.about,
                "export_seconds": self.exports,
                "rows": [asdict(row) for row in self.rows],
                "targets": [{**asdict(t), "passed": t.passed} for t in self.targets],
            }
            write_file(self.path, (json.dumps(data, indent=1) + "\n").encode())


def tasks_of(engine: str, options: argparse.Namespace, context: int) -> list[Task]:
    """Those that the model has positions for. Each shape of torch.compile takes as long as all the
    rest, so that it has a list of its own."""
    found = parse_tasks(options.lengths, options.decode)
    if engine == "compile":
        wanted = options.compile_tasks.split(",")
        found = tuple(task for task in found if task.name in wanted or options.compile_tasks == "all")
    return [task for task in found if task.length + options.runs + 1 <= context]


def measure(
    folder: Path, cut: str, name: str, dtype: str, options: argparse.Namespace, speed: float
) -> Iterator[float | Row]:
    """The seconds of the export, if the engine is ours, and all tasks. What fails is told on stderr."""
    what = f"{cut}: {name}"
    engine = attempt(what, partial(open_engine, name, folder, dtype, options.device))
    if engine is None:
        return
    if engine.export:
        yield engine.export.seconds
    yield from rows(folder, cut, engine, options, speed)


def rows(
    folder: Path, cut: str, engine: Engine, options: argparse.Namespace, speed: float
) -> Iterator[Row]:
    """Those of an engine that is open."""
    found = inspect(folder)
    context = int(open_checkpoint(folder).config["max_position_embeddings"])
    vocabulary = open_checkpoint(folder).structure.dims.vocab_size
    weights, cache = found.costs.weight_bytes_per_token, found.costs.kv_bytes_per_token
    if engine.export and engine.export.data_bytes:
        weights, cache = engine.export.data_bytes, engine.export.kv_bytes_per_token
    size = sum(found.shards.values())
    seconds = engine.load * 1e3
    yield Row(cut, engine.name, "load", seconds, seconds, size, engine.read * 1e3)

    def row(name: str, timing: Timing, read: int) -> Row:
        floor = read / speed * 1e3 if speed else 0.0
        return Row(cut, engine.name, name, timing.median, timing.p95, read, floor)

    for task in tasks_of(engine.name, options, context):
        read = weights + (task.length * task.batch * cache if task.kind == "decode" else 0)
        timing = attempt(
            f"{cut}: {engine.name}: {task.name}",
            partial(time_task, engine.steps, task, options.runs, options.runs, vocabulary),
        )
        if timing is not None:
            yield row(task.name, timing, read)
    if isinstance(engine.steps, with_onnxruntime.OnnxruntimeSteps):
        timing = attempt(
            f"{cut}: {engine.name}: {ALONE}",
            partial(time_alone, engine.steps, prompts(100, 1, vocabulary), options.runs),
        )
        if timing is not None:
            yield row(ALONE, timing, weights + 100 * cache)


def time_alone(steps: with_onnxruntime.OnnxruntimeSteps, ids: Any, runs: int) -> Timing:
    """Decode steps without the choice of the token."""
    step = steps.model_alone(ids, runs + WARMUP)
    clock([step] * WARMUP)
    return Timing.of(clock([step] * runs), WARMUP)


def attempt(what: str, run: Callable[[], Found]) -> Found | None:
    """One engine's failure must not cost the others' results."""
    try:
        return run()
    except Exception as error:
        tell(f"{what}: {error!r}"[:600])
        return None


def variants(source: Path, work: Path, options: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """The whole model and its cuts, each pruned for real and removed after its turn."""
    for cut in options.cuts.split(","):
        if cut == "whole":
            yield cut, source
            continue
        folder = work / cut
        share = options.fraction
        surgeon.prune(source, folder, drop=cut, fraction=share, max_shard_size="1TB", overwrite=True)
        yield cut, folder
        shutil.rmtree(folder)


def run(source: Path, work: Path, options: argparse.Namespace, record: Record, speed: float) -> None:
    """Every engine for every cut."""
    only = {"compile": options.compile_cuts.split(","), "int4": options.int4_cuts.split(",")}
    for cut, folder in variants(source, work, options):
        for name in options.engines.split(","):
            if cut not in only.get(name, [cut]):
                continue
            dtype = record.about["dtype"]
            for found in apart(measure, folder, cut, name, dtype, options, speed):
                if isinstance(found, Row):
                    record.add(found)
                else:
                    record.exports[f"{cut} {name}"] = found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-2-7b")
    parser.add_argument("--cpu", metavar="MODEL", help="a model's folder, on the CPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--dtype", choices=("fp16", "bf16"), default="fp16", help="on CUDA")
    parser.add_argument("--cuts", default=",".join(CUTS))
    parser.add_argument("--fraction", default="33%")
    parser.add_argument("--engines", help=f"of {', '.join(ENGINES)}")
    parser.add_argument("--int4", action="store_true", help="the engine int4 beside the others")
    parser.add_argument("--int4-cuts", default="whole")
    parser.add_argument("--compile-tasks", default="prefill 50,decode 100 x1", help="or: all")
    parser.add_argument("--compile-cuts", default="whole")
    parser.add_argument("--lengths", default="50,100")
    parser.add_argument("--decode", default="100x1,4000x1,100x16,4000x16")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=9.0, help="end by then, whatever is left")
    parser.add_argument("--work", type=Path, help="a folder for the weights; default: in memory")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.cpu:
        options.device = "cpu"
    if options.engines is None:
        options.engines = "eager,graph" if options.device == "cpu" else ",".join(ENGINES[:4])
    if options.int4 and "int4" not in options.engines.split(","):
        options.engines += ",int4"
    if unknown := set(options.engines.split(",")) - set(ENGINES):
        parser.error(f"no such engine: {', '.join(sorted(unknown))}")
    if options.work is None and Path("/dev/shm").is_dir():
        options.work = Path("/dev/shm")
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
    return options


def main() -> None:
    start, options = time.monotonic(), arguments()
    cuda = options.device == "cuda"
    about = {
        "model": Path(options.cpu).name if options.cpu else options.shape,
        "dtype": options.dtype if cuda else "fp32",
        "fraction": options.fraction,
        "runs": options.runs,
        "device": device_name(options.device),
        "versions": {**versions("transformers"), **with_onnxruntime.versions()},
    }
    record = Record(about, cuda, options.json)
    with tempfile.TemporaryDirectory(prefix="surgeon-bench-", dir=options.work) as place:
        source = Path(place) / "source"
        try:
            alarm(options.minutes * 60 - (time.monotonic() - start))
            if options.cpu:
                shutil.copytree(options.cpu, source)
            else:
                kind = {"fp16": "F16", "bf16": "BF16", "fp32": "F32"}[about["dtype"]]
                make(options.shape, source, kind)
            speed = next(apart(bandwidth), 0.0) if cuda else 0.0
            about["read_bytes_per_second"] = speed
            tell(f"weights made after {time.monotonic() - start:.0f} s; {speed / 1e9:.0f} GB/s read")
            run(source, Path(place), options, record, speed)
        except OutOfTimeError:
            tell(f"stopped after {options.minutes:g} minutes; not everything was measured")
        alarm(0)
    show(about, record.rows)
    print()
    for line in summary(record.targets):
        print(line)


def alarm(seconds: float) -> None:
    """OutOfTimeError after so many seconds, wherever the program is then; 0 for never."""

    def spent(*_: object) -> None:
        raise OutOfTimeError

    signal.signal(signal.SIGALRM, spent)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds) if seconds else 0)


def show(about: dict[str, Any], rows: list[Row]) -> None:
    """A line for each task and cut, a column for each engine: milliseconds (times the floor)."""
    names = list(dict.fromkeys(row.engine for row in rows))
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    print(f"{'':22}{'':8}" + "".join(f"{name:>18}" for name in names) + f"{'floor':>10}")
    found = {(row.task, row.cut, row.engine): row for row in rows}
    for task in dict.fromkeys(row.task for row in rows):
        for cut in dict.fromkeys(row.cut for row in rows):
            cells, floor = [], 0.0
            for name in names:
                row = found.get((task, cut, name))
                floor = row.floor if row else floor
                over = f" ({row.over_floor:.2f})" if row and row.over_floor else ""
                cells.append(f"{row.milliseconds:.2f}{over}" if row else "-")
            print(f"{task:22}{cut:8}" + "".join(f"{c:>18}" for c in cells) + f"{floor:10.2f}")


if __name__ == "__main__":
    main()
