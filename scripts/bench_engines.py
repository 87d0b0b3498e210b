"""The engines that bench_onnx.py compares, each loaded when its turn comes and gone after it."""

import importlib
import inspect
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from surgeon.checkpoint.source import Checkpoint, open_checkpoint
from surgeon.measure.latency.loops import Steps, clock
from surgeon.measure.latency.with_onnxruntime import OnnxruntimeSteps
from surgeon.measure.latency.with_transformers import TransformersSteps, load_whole
from surgeon.onnx.export import ExportReport, export_onnx
from surgeon.runtime.session import load

Found = TypeVar("Found")

ENGINES = ("eager", "compile", "graph", "cuda-graph", "int4")
"""transformers eager and compiled; our graph, replayed as a CUDA graph, and with weights of 4 bits."""

OURS = ("graph", "cuda-graph", "int4")


class CompiledSteps:
    """transformers with a static cache and torch.compile's CUDA graphs (reduce-overhead)."""

    def __init__(self, network: Any) -> None:
        import torch

        torch._dynamo.config.cache_size_limit = 64
        self._network, self._device = network, network.device
        signature = inspect.signature(network.model.forward)
        self._takes_position = "cache_position" in signature.parameters
        # with dynamic shapes, which it would turn to at the second task, it is slower
        self._forward = torch.compile(self._next, mode="reduce-overhead", fullgraph=True, dynamic=False)

    def prefill(self, ids: Any) -> Callable[[Any], object]:
        """See ``Steps``."""
        import torch

        forward = torch.compile(
            lambda ids: self._network(ids, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1),
            mode="reduce-overhead",
            dynamic=False,
        )

        def step(ids: Any) -> object:
            torch.compiler.cudagraph_mark_step_begin()
            with torch.inference_mode():
                return forward(torch.from_numpy(ids).to(self._device)).tolist()

        return step

    def decode(self, ids: Any, steps: int) -> tuple[Callable[[], object], Callable[[], None]]:
        """See ``Steps``."""
        import torch
        from transformers import StaticCache

        length = ids.shape[1]
        cache = StaticCache(config=self._network.config, max_cache_len=length + steps + 1)
        state: dict[str, Any] = {}

        def rewind() -> None:
            with torch.inference_mode():
                cache.reset()
                moved = torch.from_numpy(ids).to(self._device)
                out = self._network(moved, past_key_values=cache, logits_to_keep=1)
            state.update(ids=out.logits[:, -1:].argmax(-1), at=length)

        def step() -> object:
            torch.compiler.cudagraph_mark_step_begin()
            with torch.inference_mode():
                position = torch.tensor([state["at"]], device=self._device)
                state["ids"] = self._forward(state["ids"], position, cache).clone()
                state["at"] += 1
                return state["ids"].tolist()

        rewind()
        return step, rewind

    def _next(self, ids: Any, position: Any, cache: Any) -> Any:
        extra = {"cache_position": position} if self._takes_position else {}
        out = self._network(
            ids,
            position_ids=position[None].expand(ids.shape[0], -1),
            past_key_values=cache,
            logits_to_keep=1,
            **extra,
        )
        return out.logits[:, -1:].argmax(-1)


@dataclass(frozen=True)
class Engine:
    """A loaded engine. ``load`` and ``read`` are seconds: of loading, and of reading the same files
    once from end to end just before; ``export`` is that of our graphs."""

    name: str
    steps: Steps
    load: float
    read: float
    export: ExportReport | None = None


def open_engine(name: str, folder: Path, dtype: str, device: str) -> Engine:
    """One of ENGINES over a folder. ``dtype`` is "fp16", "bf16" or "fp32"."""
    checkpoint = open_checkpoint(folder)
    for library in ("onnxruntime",) if name in OURS else ("torch", "transformers"):
        importlib.import_module(library)  # which is no part of loading a model
    if name in OURS:
        int4 = name == "int4"
        place = folder.with_name(f"{folder.name}-int4") if int4 else folder
        export = export_onnx(
            folder, dtype, int4=int4, last_logits_only=True, output=place if int4 else None
        )
        read = read_seconds(place, export)
        start = time.perf_counter()
        loaded = load(place, device, name != "graph")
        seconds = time.perf_counter() - start
        return Engine(name, OnnxruntimeSteps(loaded), seconds, read, export)
    read = read_seconds(folder, None)
    start = time.perf_counter()
    names = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
    network = load_whole(checkpoint, names[dtype], device, False)
    steps = TransformersSteps(network) if name == "eager" else CompiledSteps(network)
    return Engine(name, steps, time.perf_counter() - start, read)


def apart(run: Callable[..., Iterator[Found]], *given: object) -> Iterator[Found]:
    """What ``run`` yields, in a process of its own: what an engine leaves behind - pools of memory that
    never shrink, captured graphs - would be in the way of the next one. Its death is told on stderr."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(theirs, run, given), daemon=True)
    try:
        child.start()
        theirs.close()
        while True:
            try:
                found = ours.recv()
            except EOFError:
                break
            yield found
        child.join()
        if child.exitcode:
            tell(f"{run.__name__}: its process ended by itself (exit code {child.exitcode})")
    finally:
        if child.pid is not None:
            child.terminate()
            child.join()
        ours.close()


def tell(words: str) -> None:
    """What is going on, to stderr: stdout has the tables."""
    print(words, file=sys.stderr, flush=True)


def _send(
    connection: Connection, run: Callable[..., Iterator[object]], given: tuple[object, ...]
) -> None:
    for found in run(*given):
        connection.send(found)


def read_seconds(folder: Path, export: ExportReport | None) -> float:
    """The seconds that it takes to read the weights once, in order, into one small buffer.

    Of a graph whose weights were all converted those in model.onnx.data. The files are in the page
    cache, or in memory altogether.
    """
    buffer = memoryview(bytearray(16 << 20))
    names = ["model.onnx.data"] if export and export.data_bytes else list(shards(folder))
    start = time.perf_counter()
    for name in names:
        with open(folder / name, "rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - start


def shards(folder: Path) -> dict[str, int]:
    """The weight files of a folder and their sizes."""
    found: Checkpoint = open_checkpoint(folder)
    return found.shards


def bandwidth() -> Iterator[float]:
    """Bytes a second that the CUDA device reads: the sum of 8 GB, the median of twenty."""
    import statistics

    import torch

    data = torch.ones(2 << 30, dtype=torch.float32, device="cuda")

    def read() -> None:
        data.sum()
        torch.cuda.synchronize()

    clock([read] * 5)
    yield data.nbytes / statistics.median(clock([read] * 20)) * 1e3
