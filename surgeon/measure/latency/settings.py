"""What times depend on beside the model: runtime, device, dtype, versions. Checked before all else."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.checkpoint.source import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.measure.latency import with_onnxruntime, with_transformers
from surgeon.measure.latency.loops import SEED, WARMUP
from surgeon.measure.latency.rounds import DECODE_ROUNDS, LATER_WARMUP, ROUNDS
from surgeon.measure.latency.values import Task
from surgeon.runtime.with_transformers import import_transformers
from surgeon.units import dtype_name

RUNTIMES = ("transformers", "onnxruntime")

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Of an element, by the dtypes that ``--dtype`` takes beside "auto"."""

SEQUENCES = {"cuda": 1000, "cpu": 100}
"""Prompts of each length, by device; the paper took 1000."""


@dataclass(frozen=True)
class Settings:
    """How to measure. ``sequences`` prompts of each length one by one, ``tokens`` decode steps;
    ``cuda_graph`` and ``threads`` (0: its own choice) are onnxruntime's."""

    runtime: str
    device: str
    sequences: int
    tokens: int
    cuda_graph: bool
    threads: int

    def to_json(self) -> dict[str, Any]:
        """As it stands in bench.json: with the same values, times may stand side by side."""
        data: dict[str, Any] = {
            "runtime": self.runtime,
            "device": self.device,
            "sequences": self.sequences,
            "tokens": self.tokens,
            "warmup": WARMUP,
            "seed": SEED,
        }
        if self.runtime == "transformers":
            return data | {
                "later_warmup": LATER_WARMUP,
                "rounds": min(ROUNDS, self.sequences),
                "decode_rounds": DECODE_ROUNDS,
                "mode": "eager, dynamic cache",
                "peak_bytes": with_transformers.PEAK,
            }
        mode = "CUDA graphs" if self.cuda_graph else "no CUDA graphs"
        if self.device == "cpu":
            mode = f"{self.threads} threads" if self.threads else "threads by onnxruntime"
        return data | {
            "cuda_graph": self.cuda_graph,
            "threads": self.threads,
            "mode": f"{mode}, shared KV buffers",
            "peak_bytes": with_onnxruntime.PEAKS[self.device],
        }

    def room(self, task: Task) -> int:
        """Positions of the model that a task needs."""
        return task.length + (self.tokens if task.kind == "decode" else 0) + 1


def make_settings(
    runtime: str, device: str, sequences: int | None, tokens: int, cuda_graph: bool, threads: int
) -> Settings:
    """The settings, with "auto" and None worked out; SurgeonError for what is not there."""
    if runtime not in RUNTIMES:
        raise SurgeonError(f"--runtime {runtime!r} is not known; use {', '.join(RUNTIMES)}")
    if device not in ("auto", "cuda", "cpu"):
        raise SurgeonError(f"--device {device!r} is not known; use auto, cuda, cpu")
    if min(tokens, 1 if sequences is None else sequences) < 1 or threads < 0:
        raise SurgeonError("bench: --sequences and --tokens have to be at least 1, --threads 0 or more")
    has_cuda = _has_cuda(runtime)
    if device == "cuda" and not has_cuda:
        need = "torch finds no CUDA device"
        if runtime == "onnxruntime":
            need = "this onnxruntime has no CUDA provider (pip install 'surgeon[gpu]')"
        raise SurgeonError(f"--device cuda: {need}; use --device cpu")
    chosen = "cuda" if device != "cpu" and has_cuda else "cpu"
    return Settings(
        runtime,
        chosen,
        sequences or SEQUENCES[chosen],
        tokens,
        cuda_graph and chosen == "cuda",
        threads,
    )


def _has_cuda(runtime: str) -> bool:
    if runtime == "transformers":
        import_transformers()
        import torch

        return bool(torch.cuda.is_available())
    with_onnxruntime.versions()
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def choose_dtype(settings: Settings, dtype: str, own: str | None) -> str:
    """The dtype to compute in, "float16" and so on. ``own`` is the checkpoint's, None for a shape.

    "auto": float32 on a CPU; else 16 bits, the checkpoint's own if it has them.
    """
    if dtype == "auto":
        if settings.device == "cpu":
            return "float32"
        return own if own in ("float16", "bfloat16") else "float16"
    chosen = dtype_name(dtype)
    if chosen not in BYTES:
        raise SurgeonError(f"--dtype {dtype!r} is not known; use auto, {', '.join(BYTES)}")
    if settings.runtime == "onnxruntime" and (chosen == "float32") != (settings.device == "cpu"):
        raise SurgeonError(
            f"--dtype {dtype}: onnxruntime's attention is float32 on a CPU and of 16 bits on CUDA"
        )
    return chosen


def own_dtype(checkpoint: Checkpoint) -> str | None:
    """The checkpoint's, by its embedding table."""
    stored = checkpoint.tensors[f"{checkpoint.family.embedding}.weight"].dtype
    return {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(stored)


def device_name(device: str) -> str:
    """The GPU as its driver names it, or the processor and its cores."""
    if device == "cuda":
        try:
            import torch
        except ImportError:
            return "CUDA"
        # a torch for CPUs may stand beside an onnxruntime for CUDA
        return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "CUDA"
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    name = found[1].strip() if found else platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def versions(runtime: str) -> dict[str, str]:
    """Of Python and of what runs the model."""
    home = with_transformers if runtime == "transformers" else with_onnxruntime
    return {"python": platform.python_version(), **home.versions()}
