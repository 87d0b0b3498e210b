"""onnxruntime over a graph of the cut, in a process of its own.

Its memory pools never shrink, so only a fresh process can tell what one cut needs. The graphs of all
cuts point into the bytes of the one whole model: none is ever written.

The process reads one JSON object a line and answers each with one: first what to load, then tasks.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from surgeon.errors import SurgeonError
from surgeon.measure.latency.loops import time_task
from surgeon.measure.latency.memory import cuda_free, peak_resident
from surgeon.measure.latency.values import Task, Timing
from surgeon.measure.memory import out_of_memory
from surgeon.runtime.session import Loaded

PEAKS = {
    "cuda": "what the process of this cut took of the device's free memory, its CUDA context apart: "
    "weights, caches and memory pools as they were after the task",
    "cpu": "the most main memory that the process of this cut had held after the task, onnxruntime "
    "included",
}
"""What ``peak_bytes`` means here, by device."""


class OnnxruntimeSteps:
    """Steps of a session, in buffers that keep their places. The ids of a prompt come from the host."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded

    def prefill(self, ids: Any) -> Callable[[Any], object]:
        """See ``Steps``. With CUDA graphs the prompt is one as well."""
        batch = self._batch(ids, 1, self._loaded.cuda_graph)

        def step(ids: Any) -> object:
            batch.refill(ids)
            return batch.prefill()

        return step

    def decode(self, ids: Any, steps: int) -> tuple[Callable[[], object], Callable[[], None]]:
        """See ``Steps``."""
        batch = self._batch(ids, steps + 1, False)
        batch.prefill()
        left = steps

        def step() -> object:
            nonlocal left
            left -= 1
            return batch.decode(more=left > 0)

        def rewind() -> None:
            nonlocal left
            left = steps
            batch.rewind()

        return step, rewind

    def model_alone(self, ids: Any, steps: int) -> Callable[[], object]:
        """A decode step without the choice of the token and its way to the host."""
        batch = self._batch(ids, steps + 1, False)
        batch.prefill()
        step: Callable[[], object] = batch.step
        return step

    def _batch(self, ids: Any, room: int, capture_prefill: bool) -> Any:
        from surgeon.runtime.decoding import Batch
        from surgeon.runtime.sampler import GREEDY

        return Batch(self._loaded, ids.tolist(), ids.shape[1] + room, GREEDY, capture_prefill)


class Process:
    """The other end of ``serve``. SurgeonError when it ends before it has answered."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._child.kill()
        self._child.communicate()

    def ask(self, question: dict[str, Any], notify: Callable[[float], None]) -> dict[str, Any]:
        """The answer; the estimates that come before it, seconds, go to ``notify``."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with suppress(BrokenPipeError):
            self._child.stdin.write(json.dumps(question) + "\n")
            self._child.stdin.flush()
        for line in self._child.stdout:
            answer: dict[str, Any] = json.loads(line)
            if "error" in answer:
                raise SurgeonError(answer["error"])
            if "estimate" not in answer:
                return answer
            notify(answer["estimate"])
        code = self._child.wait()
        raise SurgeonError(
            f"the process that measures ended by itself (exit code {code}); out of memory?"
        )


@contextmanager
def measuring(
    folder: Path, device: str, cuda_graph: bool, threads: int
) -> Iterator[tuple[Callable[..., tuple[Timing, int | None]], float]]:
    """A process with the graph of ``folder`` loaded: what times a task in it, and the seconds that
    loading took."""
    question = {"folder": str(folder), "device": device, "cuda_graph": cuda_graph, "threads": threads}
    with Process() as process:
        load = process.ask(question, lambda estimate: None)["load"]

        def measure(
            task: Task, sequences: int, tokens: int, notify: Callable[[float], None]
        ) -> tuple[Timing, int | None]:
            wish = {"task": asdict(task), "sequences": sequences, "tokens": tokens}
            answer = process.ask(wish, notify)
            return Timing(**answer["timing"]), answer["peak"]

        yield measure, load


def serve(lines: Iterator[str], answer: Callable[[dict[str, Any]], None]) -> None:
    """Answers until the lines end. An error is an answer too, and the last one."""
    try:
        question = json.loads(next(lines))
        device = question["device"]
        free = None
        if device == "cuda":
            free = cuda_free()  # torch's wheels also bring the CUDA libraries that onnxruntime wants
        from surgeon.runtime.session import load

        start = time.perf_counter()
        loaded = load(question["folder"], device, question["cuda_graph"], question["threads"])
        answer({"load": time.perf_counter() - start})
        vocabulary = loaded.checkpoint.structure.dims.vocab_size
        for line in lines:
            wish = json.loads(line)
            timing = time_task(
                OnnxruntimeSteps(loaded),
                Task(**wish["task"]),
                wish["sequences"],
                wish["tokens"],
                vocabulary,
                lambda seconds: answer({"estimate": seconds}),
            )
            now = cuda_free() if device == "cuda" else None
            peak = free - now if free is not None and now is not None else None
            answer({"timing": asdict(timing), "peak": peak if device == "cuda" else peak_resident()})
    except SurgeonError as error:
        answer({"error": str(error)})
    except Exception as error:  # onnxruntime's own exceptions share no base class
        why = "out of memory" if out_of_memory(error) else f"onnxruntime failed: {error}"
        answer({"error": why[:500]})


def versions() -> dict[str, str]:
    """Of what runs the graph."""
    try:
        import onnxruntime
    except ImportError:
        raise SurgeonError(
            "this needs onnxruntime, which is not installed; run: pip install 'surgeon[onnxruntime]' "
            "(or 'surgeon[gpu]')"
        ) from None
    found = {"onnxruntime": onnxruntime.__version__}
    if cuda := getattr(onnxruntime, "cuda_version", ""):
        found["cuda"] = cuda
    return found


def main() -> None:
    """The process. What libraries print to stdout goes to stderr: stdout is for answers."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)

        def answer(data: dict[str, Any]) -> None:
            out.write(json.dumps(data) + "\n")
            out.flush()

        with suppress(KeyboardInterrupt, BrokenPipeError):
            serve(iter(sys.stdin), answer)


if __name__ == "__main__":
    main()
