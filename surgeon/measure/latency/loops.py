"""What both runtimes do alike: prompts, warm-up, and the clock around each step."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from surgeon.measure.latency.values import Task, Timing

WARMUP = 8
"""Steps before the clock counts: kernels are chosen, CUDA graphs captured, caches filled."""

FIRST_ID = 3
"""Token ids below are special in Llama's vocabularies."""

SEED = 0


class Steps(Protocol):
    """A loaded model that can be timed. Every step ends with the new tokens on the host, of decoding
    those of this step, while the device may be at the next one already."""

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


@dataclass(frozen=True)
class Times:
    """Milliseconds of a task, or of a share of it: those that count, after ``warmup`` steps; ``first``
    are those of decoding's first pass."""

    counted: Sequence[float]
    warmup: int
    first: Sequence[float] = ()


def timing(shares: Sequence[Times]) -> Timing:
    """The statistics over all times of at least one share."""
    first = [taken for share in shares for taken in share.first]
    return Timing.of(
        [taken for share in shares for taken in share.counted],
        sum(share.warmup for share in shares),
        statistics.median(first) if first else None,
    )


def time_task(
    steps: Steps,
    task: Task,
    sequences: int,
    tokens: int,
    vocabulary: int,
    warmed: Callable[[float], None] = lambda estimate: None,
) -> Timing:
    """Times a task at once: ``sequences`` different prompts one by one, or ``tokens`` decode steps.

    ``warmed`` gets the seconds that are still to come, by the fastest warm-up step.
    """
    numbers = range(sequences if task.kind == "prefill" else 1)
    return timing([take_times(steps, task, numbers, tokens, vocabulary, WARMUP, warmed)])


def take_times(
    steps: Steps,
    task: Task,
    numbers: range,
    tokens: int,
    vocabulary: int,
    warmup: int,
    warmed: Callable[[float], None] = lambda estimate: None,
) -> Times:
    """Times the prompts of these ``numbers``, or ``tokens`` decode steps after the first of them.

    Decoding goes over the same lengths twice, and the second pass counts: a runtime that plans anew for
    each length does so in the first, which is its warm-up. ``warmed`` as in ``time_task``.
    """
    if task.kind == "prefill":
        ids = [prompts(task.length, 1, vocabulary, number) for number in numbers]
        step = steps.prefill(ids[0])
        warm = clock(partial(step, ids[0]) for _ in range(warmup))
        warmed(min(warm) * len(ids) / 1e3)
        return Times(clock(partial(step, row) for row in ids), warmup)
    take, rewind = steps.decode(prompts(task.length, task.batch, vocabulary, numbers[0]), tokens)
    first = clock(take for _ in range(tokens))
    warmed(min(first) * tokens / 1e3)
    rewind()
    return Times(clock(take for _ in range(tokens)), tokens, first)


def clock(calls: Iterable[Callable[[], object]]) -> list[float]:
    """The milliseconds that each call takes."""
    taken = []
    for call in calls:
        start = time.perf_counter()
        call()
        taken.append((time.perf_counter() - start) * 1e3)
    return taken
