"""Opens cuts in the two runtimes; what comes of it times tasks."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from surgeon.checkpoint.source import Checkpoint
from surgeon.measure.latency import rounds, with_onnxruntime, with_transformers
from surgeon.measure.latency.loops import Times, take_times
from surgeon.measure.latency.settings import Settings
from surgeon.measure.latency.values import Task, Timing
from surgeon.measure.shapes import make
from surgeon.surgery import Operation

Estimate = Callable[[float], None]
"""Takes the seconds that are still to come."""

Measure = Callable[[Task, Estimate], tuple[Timing, int | None]]
"""Times a task; with the peak bytes."""

Engine = Callable[[Operation | None], AbstractContextManager[tuple[Measure, float]]]
"""Opens a cut alone, or the whole model for None: what times its tasks, and the seconds that took."""

SAFETENSORS = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The dtypes of a run, as safetensors writes them."""

_ONNX = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def transformers_engine(
    checkpoint: Checkpoint, settings: Settings, dtype: str, shape: str | None
) -> rounds.Open:
    """The whole model is loaded here, once; cuts share its weights, so that all can be open."""
    start = time.perf_counter()
    network = with_transformers.load_whole(checkpoint, dtype, settings.device, shape is not None)
    loading = time.perf_counter() - start
    vocabulary = checkpoint.structure.dims.vocab_size

    def opened(operation: Operation | None) -> tuple[rounds.Measure, float]:
        start = time.perf_counter()
        cut = network if operation is None else with_transformers.cut_network(network, operation)
        seconds = loading if operation is None else time.perf_counter() - start
        steps, memory = with_transformers.TransformersSteps(cut), with_transformers.Memory(cut)

        def measure(task: Task, numbers: range, warmup: int) -> tuple[Times, int | None]:
            with memory.watched():
                times = take_times(steps, task, numbers, settings.tokens, vocabulary, warmup)
            return times, memory.peak

        return measure, seconds

    return opened


def onnxruntime_engine(
    checkpoint: Checkpoint, settings: Settings, dtype: str, shape: str | None, work: Path
) -> Engine:
    """One folder with the whole model's bytes; each cut writes its graph beside them."""
    from surgeon.onnx.export import export_onnx

    folder = work / "model"
    if shape is not None:
        make(shape, folder, SAFETENSORS[dtype])
    source = checkpoint.source.folder if shape is None else folder

    @contextmanager
    def opened(operation: Operation | None) -> Iterator[tuple[Measure, float]]:
        export_onnx(
            str(source),
            _ONNX[dtype],
            last_logits_only=True,
            output=None if shape is not None else folder,
            without=operation.plan if operation else None,
        )
        with with_onnxruntime.measuring(
            folder, settings.device, settings.cuda_graph, settings.threads
        ) as (ask, seconds):
            yield (
                lambda task, estimate: ask(task, settings.sequences, settings.tokens, estimate),
                seconds,
            )

    return opened
