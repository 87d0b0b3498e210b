"""What both runtimes do alike: prompts, warm-up, and the clock around each step."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from surgeon.measure.latency.values import Task, Timing

WARMUP = 8
"""Steps before the clock counts: kernels are chosen, CUDA graphs captured, caches filled."""

FIRST_ID = 3
"""Token ids below are special in Llama's vocabularies."""

SEED = 0


class Steps(Protocol):
    """A loaded model that can be timed. Every step ends with the new tokens on the host."""

    def prefill(self, ids: Any) -> Callable[[Any], object]:
        """Makes ready for prompts shaped like ``ids``, int64 [batch, length]; the step takes one."""

    def decode(self, ids: Any, steps: int) -> tuple[Callable[[], object], Callable[[], None]]:
        """Runs the prompts, with room for ``steps`` more tokens each: a step of one token a row, and
        the way back to the state after the prompts."""


def prompts(length: int, batch: int, vocabulary: int, number: int = 0) -> Any:
    """Random token ids, int64 [batch, length]: the same for every model, others for each ``number``."""
    import numpy as np

    random = np.random.default_rng((SEED, number))
    return random.integers(min(FIRST_ID, vocabulary - 1), vocabulary, (batch, length), np.int64)


def time_task(
    steps: Steps,
    task: Task,
    sequences: int,
    tokens: int,
    vocabulary: int,
    warmed: Callable[[float], None] = lambda estimate: None,
) -> Timing:
    """Times a task: ``sequences`` different prompts one by one, or ``tokens`` decode steps.

    Decoding goes over the same lengths twice, and the second pass counts: a runtime that plans anew for
    each length does so in the first. ``warmed`` gets the seconds that are still to come, by the
    fastest warm-up step.
    """
    if task.kind == "prefill":
        ids = [prompts(task.length, 1, vocabulary, number) for number in range(sequences)]
        step = steps.prefill(ids[0])
        warm = clock(partial(step, ids[0]) for _ in range(WARMUP))
        warmed(min(warm) * sequences / 1e3)
        return Timing.of(clock(partial(step, row) for row in ids), WARMUP)
    take, rewind = steps.decode(prompts(task.length, task.batch, vocabulary), tokens)
    first = clock(take for _ in range(tokens))
    warmed(min(first) * tokens / 1e3)
    rewind()
    return Timing.of(clock(take for _ in range(tokens)), tokens, Timing.of(first, 0).median)


def clock(calls: Iterable[Callable[[], object]]) -> list[float]:
    """The milliseconds that each call takes."""
    taken = []
    for call in calls:
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1e3)
    return taken
