#!/usr/bin/env python3
"""Times generation through our ONNX graph against transformers, whole and cut, in one run.

On a GPU, with random weights of a known shape: transformers eager, torch.compile, our graph, our graph
replayed as a CUDA graph; the whole model and 33 % of attention, MLP or blocks dropped. Prefill is one
new token after 50 and 100 (the paper's Tables 7-10), decode one token after 100 and 4,000 cached ones,
batch 1 and 16. Each time includes the choice of the token and its way to the host. Beside each stand
the bytes that must be read, and the time over that floor at this device's measured bandwidth.

    scripts/bench_onnx.py --shape llama-2-7b --json out.json
    scripts/bench_onnx.py --cpu MODEL          a trained model on the CPU, in float32
"""

import argparse
import gc
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import random_llama

import surgeon
from surgeon.inspection import inspect
from surgeon.onnx.export import export_onnx
from surgeon.runtime.decoding import Batch
from surgeon.runtime.sampler import GREEDY
from surgeon.runtime.session import load

CUTS = ("whole", "attn", "mlp", "block")
DECODES = ((100, 1), (4000, 1), (100, 16), (4000, 16))
PREFILLS = (50, 100)


@dataclass(frozen=True)
class Row:
    """One measurement; times in milliseconds, ``floor`` the time to read ``bytes`` once."""

    cut: str
    engine: str
    task: str
    milliseconds: float
    bytes: int
    floor: float


def median_ms(step: Callable[[], object], runs: int, warm: int) -> float:
    """The median time of a call that ends with its result on the host."""
    for _ in range(warm):
        step()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def bandwidth() -> float:
    """Bytes a second that the device reads: the sum of 8 GB, the median of twenty."""
    import torch

    data = torch.ones(2 << 30, dtype=torch.float32, device="cuda")

    def read() -> None:
        data.sum()
        torch.cuda.synchronize()

    return float(data.numel() * 4 / median_ms(read, 20, 5) * 1e3)


def prompts(length: int, batch: int) -> list[list[int]]:
    """The same token ids for every engine."""
    return [[3 + (7 * i + 13 * row) % 1900 for i in range(length)] for row in range(batch)]


class Ours:
    """Our graph in onnxruntime."""

    def __init__(self, folder: Path, device: str, cuda_graph: bool) -> None:
        start = time.perf_counter()
        self._loaded = load(folder, device, cuda_graph)
        self.load_seconds = time.perf_counter() - start

    def prefill(self, length: int, runs: int) -> float:
        """One new token after ``length``; with CUDA graphs, the prompt is one as well."""
        state = Batch(self._loaded, prompts(length, 1), 256, GREEDY, self._loaded.cuda_graph)
        return median_ms(state.prefill, runs, 6)

    def decode(self, cached: int, batch: int, runs: int) -> float:
        """One more token over ``cached`` ones."""
        state = Batch(self._loaded, prompts(cached, batch), cached + runs + 16, GREEDY)
        state.prefill()
        return median_ms(state.decode, runs, 8)

    def step(self, cached: int, batch: int, runs: int) -> float:
        """The same without the choice of the token and its way to the host."""
        state = Batch(self._loaded, prompts(cached, batch), cached + runs + 16, GREEDY)
        state.prefill()
        return median_ms(state.step, runs, 8)


class Eager:
    """transformers as it comes, with a dynamic cache."""

    compiled = False

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()
        start = time.perf_counter()
        dtype = "auto" if device == "cuda" else torch.float32
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        self.load_seconds = time.perf_counter() - start
        self._device = device

    def prefill(self, length: int, runs: int) -> float:
        import torch

        ids = torch.tensor(prompts(length, 1), device=self._device)

        def step() -> object:
            with torch.inference_mode():
                return self._model(ids, logits_to_keep=1).logits[:, -1].argmax(-1).tolist()

        return median_ms(step, runs, 3)

    def decode(self, cached: int, batch: int, runs: int) -> float:
        import torch

        with torch.inference_mode():
            ids = torch.tensor(prompts(cached, batch), device=self._device)
            out = self._model(ids, logits_to_keep=1)
            state = {"ids": out.logits[:, -1:].argmax(-1), "cache": out.past_key_values}

            def step() -> object:
                got = self._model(state["ids"], past_key_values=state["cache"])
                state["ids"] = got.logits[:, -1:].argmax(-1)
                return state["ids"].tolist()

            return median_ms(step, runs, 4)


class Compiled(Eager):
    """The same with a static cache and torch.compile's CUDA graphs (reduce-overhead)."""

    compiled = True

    def __init__(self, folder: Path, device: str) -> None:
        import torch

        super().__init__(folder, device)
        torch._dynamo.reset()
        torch._dynamo.config.cache_size_limit = 64
        self._step = torch.compile(self._forward, mode="reduce-overhead", fullgraph=True)

    def _forward(self, ids: Any, positions: Any, cache: Any, mask: Any) -> Any:
        extra = {"cache_position": positions} if _takes_cache_position(self._model) else {}
        out = self._model(
            ids,
            attention_mask=mask,
            position_ids=positions[None].expand(ids.shape[0], -1),
            past_key_values=cache,
            logits_to_keep=1,
            **extra,
        )
        return out.logits[:, -1:].argmax(-1)

    def _cache(self, batch: int, length: int) -> Any:
        from transformers import StaticCache

        return StaticCache(config=self._model.config, max_cache_len=length)

    def prefill(self, length: int, runs: int) -> float:
        import torch

        ids = torch.tensor(prompts(length, 1), device=self._device)
        forward = torch.compile(
            lambda ids: self._model(ids, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1),
            mode="reduce-overhead",
        )

        def step() -> object:
            torch.compiler.cudagraph_mark_step_begin()
            with torch.inference_mode():
                return forward(ids).tolist()

        return median_ms(step, runs, 6)

    def decode(self, cached: int, batch: int, runs: int) -> float:
        import torch

        with torch.inference_mode():
            cache = self._cache(batch, cached + runs + 16)
            ids = torch.tensor(prompts(cached, batch), device=self._device)
            first = self._model(ids, past_key_values=cache, logits_to_keep=1)
            state = {"ids": first.logits[:, -1:].argmax(-1), "at": cached}

            def step() -> object:
                torch.compiler.cudagraph_mark_step_begin()
                position = torch.tensor([state["at"]], device=self._device)
                state["ids"] = self._step(state["ids"], position, cache, None).clone()
                state["at"] += 1
                return state["ids"].tolist()

            return median_ms(step, runs, 6)


def _takes_cache_position(model: Any) -> bool:
    import inspect as python

    return "cache_position" in python.signature(model.model.forward).parameters


def engines(folder: Path, device: str, chosen: list[str]) -> Iterator[tuple[str, Any]]:
    """The engines one after the other, each loaded when its turn comes and gone after it."""
    makers: dict[str, Callable[[], Any]] = {
        "eager": lambda: Eager(folder, device),
        "compile": lambda: Compiled(folder, device),
        "graph": lambda: Ours(folder, device, False),
        "cuda-graph": lambda: Ours(folder, device, True),
    }
    for name in chosen:
        with released():
            yield name, makers[name]()


@contextmanager
def released() -> Iterator[None]:
    yield
    gc.collect()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def measure(
    folder: Path,
    cut: str,
    device: str,
    options: argparse.Namespace,
    speed: float,
    quantized_bytes: int,
) -> Iterator[Row]:
    """All tasks in all engines for one model; a task that an engine cannot do is told on stderr."""
    found = inspect(folder)
    for name, engine in engines(folder, device, options.engines.split(",")):
        print(f"{cut}: {name} loaded in {engine.load_seconds:.2f} s", file=sys.stderr, flush=True)
        weights, cache = found.costs.weight_bytes_per_token, found.costs.kv_bytes_per_token
        if quantized_bytes and isinstance(engine, Ours):
            weights = quantized_bytes
        room = checkpoint_context(folder) - options.runs - 16
        tasks: list[tuple[str, Callable[[], float], int]] = [
            (f"prefill {n}", partial(engine.prefill, n, options.runs), weights) for n in PREFILLS
        ]
        for cached, batch in DECODES:
            if batch <= options.most and cached <= room:
                run: Callable[[], float] = partial(engine.decode, cached, batch, options.runs)
                tasks.append((f"decode {cached} x{batch}", run, weights + cached * batch * cache))
        if isinstance(engine, Ours):
            run = partial(engine.step, 100, 1, options.runs)
            tasks.append(("step alone 100 x1", run, weights + 100 * cache))
        if name == "compile" and cut not in options.compile_cuts.split(","):
            continue
        if name == "compile":  # each shape is compiled anew, which takes longer than all the rest
            tasks = [task for task in tasks if task[0] in options.compile_tasks.split(",")]
        yield Row(cut, name, "load", engine.load_seconds * 1e3, sum(found.shards.values()), 0.0)
        for task, run, size in tasks:
            try:
                taken = run()
            except Exception as error:  # one engine's failure must not cost the others' results
                print(f"{cut}: {name}: {task}: {error!r}"[:600], file=sys.stderr, flush=True)
                continue
            floor = size / speed * 1e3 if speed else 0.0
            row = Row(cut, name, task, taken, size, floor)
            ratio = f" = {taken / floor:.2f} x floor" if floor else ""
            print(f"{cut}: {name}: {task}: {taken:.3f} ms{ratio}", file=sys.stderr, flush=True)
            yield row
        del engine


def checkpoint_context(folder: Path) -> int:
    """Positions that the model has."""
    return int(json.loads((folder / "config.json").read_text())["max_position_embeddings"])


def variants(source: Path, work: Path, share: str, wanted: list[str]) -> Iterator[tuple[str, Path]]:
    """The whole model and its cuts, each pruned for real and removed after its turn."""
    for cut in wanted:
        if cut == "whole":
            yield cut, source
            continue
        folder = work / cut
        surgeon.prune(source, folder, drop=cut, fraction=share, max_shard_size="1TB", overwrite=True)
        yield cut, folder
        shutil.rmtree(folder)


def versions() -> dict[str, str]:
    """Of everything that matters for the figures."""
    import onnxruntime
    import torch
    import transformers

    found = {
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
        found["cuda"] = str(torch.version.cuda)
    else:
        found["device"] = f"{os.cpu_count()} cores, {platform.machine()}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=sorted(random_llama.SHAPES), default="llama-2-7b")
    parser.add_argument("--cpu", metavar="MODEL", help="a model's folder, on the CPU")
    parser.add_argument("--dtype", choices=("fp16", "bf16"), default="fp16")
    parser.add_argument("--int4", action="store_true")
    parser.add_argument("--cuts", default=",".join(CUTS))
    parser.add_argument("--fraction", default="33%")
    parser.add_argument("--engines", default="eager,compile,graph,cuda-graph")
    parser.add_argument("--compile-tasks", default="prefill 50,decode 100 x1")
    parser.add_argument("--compile-cuts", default="whole")
    parser.add_argument("--most", type=int, default=16, help="largest batch")
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--work", type=Path, default=Path("/dev/shm/surgeon-bench"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.work.exists():
        parser.error(f"{options.work} exists; remove it or name another --work")
    options.work.mkdir(parents=True)
    source = options.work / "source"
    device = "cpu" if options.cpu else "cuda"
    if options.cpu:
        shutil.copytree(options.cpu, source)
        options.engines = ",".join(e for e in options.engines.split(",") if e in ("eager", "graph"))
        speed = 0.0
    else:
        random_llama.make(options.shape, source, "F16" if options.dtype == "fp16" else "BF16")
        speed = bandwidth()
        print(f"{speed / 1e9:.0f} GB/s read", file=sys.stderr)
    rows: list[Row] = []
    exports: dict[str, Any] = {}
    for cut, folder in variants(source, options.work, options.fraction, options.cuts.split(",")):
        dtype = "fp32" if options.cpu else options.dtype
        export = export_onnx(folder, dtype, int4=options.int4, last_logits_only=True)
        exports[cut] = export.seconds
        print(f"{cut}: exported in {exports[cut]:.3f} s", file=sys.stderr, flush=True)
        quantized = export.data_bytes if options.int4 else 0
        rows += measure(folder, cut, device, options, speed, quantized)
    shutil.rmtree(options.work)
    report = {
        "model": Path(options.cpu).name if options.cpu else options.shape,
        "dtype": "fp32" if options.cpu else options.dtype,
        "int4": options.int4,
        "fraction": options.fraction,
        "read_bytes_per_second": speed,
        "export_seconds": exports,
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    show(report, rows)


def show(report: dict[str, Any], rows: list[Row]) -> None:
    """A line for each task and cut, a column for each engine: milliseconds (times the floor)."""
    names = list(dict.fromkeys(row.engine for row in rows))
    print(f"{report['model']}, {report['dtype']}, {report['versions']}")
    print(f"{'':22}{'':8}" + "".join(f"{name:>18}" for name in names) + f"{'floor':>10}")
    found = {(row.task, row.cut, row.engine): row for row in rows}
    for task in dict.fromkeys(row.task for row in rows):
        for cut in dict.fromkeys(row.cut for row in rows):
            cells, floor = [], 0.0
            for name in names:
                row = found.get((task, cut, name))
                floor = row.floor if row else floor
                over = f" ({row.milliseconds / row.floor:.2f})" if row and row.floor else ""
                cells.append(f"{row.milliseconds:.2f}{over}" if row else "-")
            print(f"{task:22}{cut:8}" + "".join(f"{c:>18}" for c in cells) + f"{floor:10.2f}")


if __name__ == "__main__":
    main()
