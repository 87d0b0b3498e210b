"""Log-probabilities of given tokens under many cuts of one model, computed together.

Losses of texts and the log-likelihoods of lm-evaluation-harness are both sums of such scores.
"""

import hashlib
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from surgeon.errors import SurgeonError
from surgeon.measure.grid import Variant
from surgeon.measure.memory import halve, out_of_memory
from surgeon.measure.network import Network, State
from surgeon.measure.tree import follow, shared_tree

PART_TOKENS = 8192
"""Tokens that are computed between two entries of a journal."""

BATCH_TOKENS = 4096
"""Tokens that a batch holds where no batch size is asked for."""

_CHUNKS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""Logits that are looked at together: on a CPU they stay in its caches, on a GPU they fill it."""


@dataclass(frozen=True)
class Item:
    """Token ids: asked is the probability of ``continuation`` after ``context``, neither empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def row(self) -> tuple[int, ...]:
        """What the model reads: all but the last token, which it only predicts."""
        return (*self.context, *self.continuation[:-1])


class Score(NamedTuple):
    """The log-probability of a continuation in nats; whether each of its tokens is the likeliest."""

    logprob: float
    greedy: bool


@dataclass(frozen=True)
class Result:
    """The scores of one cut, item by item, and the seconds it took beyond what was there before."""

    scores: tuple[Score, ...]
    seconds: float


@dataclass(frozen=True)
class Part:
    """Some of the items: ``numbers`` are their places in the whole; ``digest`` tells their tokens."""

    numbers: tuple[int, ...]
    items: tuple[Item, ...]
    digest: str

    @property
    def tokens(self) -> int:
        """What the model reads for it, without padding."""
        return sum(map(len, {item.row for item in self.items}))


def make_parts(items: Sequence[Item], tokens: int = PART_TOKENS) -> tuple[Part, ...]:
    """Cuts items into parts of about ``tokens`` tokens, the longest items first.

    So a batch holds rows of about one length, and what does not fit into memory shows at once.
    """
    order = sorted(range(len(items)), key=lambda n: (-len(items[n].row), items[n].row, n))
    parts: list[list[int]] = []
    room = 0
    previous: tuple[int, ...] | None = None
    for number in order:
        row = items[number].row
        if row != previous:
            if len(row) > room:
                parts.append([])
                room = tokens
            room -= len(row)
            previous = row
        parts[-1].append(number)
    return tuple(_part(numbers, items) for numbers in parts)


def _part(numbers: list[int], items: Sequence[Item]) -> Part:
    chosen = tuple(items[number] for number in numbers)
    digest = hashlib.sha256()
    for item in chosen:
        digest.update(array("q", (len(item.context), len(item.continuation))).tobytes())
        digest.update(array("q", (*item.context, *item.continuation)).tobytes())
    return Part(tuple(numbers), chosen, digest.hexdigest()[:16])


class Scorer:
    """Scores items under cuts of a network.

    A batch holds ``batch_size`` rows, padded on the right, or about BATCH_TOKENS tokens. Where memory
    runs out, it is halved, once and for all, and ``notify`` gets a line that says so. Softmax is in
    float32 whatever the model's dtype.

    With a batch size of 1 all logits of a row are computed, as transformers does it, and not only those
    that are asked for: matrix products of another size round otherwise. So the scores are to the last
    bit those of programs that run one row after the other.
    """

    def __init__(
        self,
        network: Network,
        batch_size: int | None = None,
        notify: Callable[[str], None] = lambda words: None,
    ) -> None:
        self._network = network
        self._batch_size = batch_size
        self._most_tokens = BATCH_TOKENS
        self._notify = notify

    def score(
        self,
        items: Sequence[Item],
        variants: Sequence[Variant],
        advance: Callable[[int], None] = lambda tokens: None,
    ) -> tuple[Result, ...]:
        """A result for each variant; ``advance`` gets the number of tokens that are done.

        Items that read the same tokens, as the answers "A" to "D" of a question do, are computed once.
        SurgeonError, naming the variant, for logits that are not numbers.
        """
        rows: dict[tuple[int, ...], list[int]] = {}
        for number, item in enumerate(items):
            rows.setdefault(item.row, []).append(number)
        order = sorted(rows, key=len, reverse=True)
        scores: list[dict[int, Score]] = [{} for _ in variants]
        seconds = [0.0 for _ in variants]
        while order:
            batch = order[: self._rows(len(order[0]))]
            try:
                found = self._batch(batch, [[items[n] for n in rows[row]] for row in batch], variants)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                found = None
            if found is None:
                rows_left = halve(len(batch), len(batch[0]), self._notify)
                if self._batch_size:
                    self._batch_size = rows_left
                else:
                    self._most_tokens = rows_left * len(batch[0])
                continue
            numbers = [number for row in batch for number in rows[row]]
            for variant, (values, took) in enumerate(found):
                scores[variant].update(zip(numbers, values, strict=True))
                seconds[variant] += took
            order = order[len(batch) :]
            advance(sum(map(len, batch)))
        return tuple(
            Result(tuple(by_item[n] for n in range(len(items))), took)
            for by_item, took in zip(scores, seconds, strict=True)
        )

    def _rows(self, length: int) -> int:
        return self._batch_size or max(1, self._most_tokens // length)

    def _batch(
        self,
        rows: Sequence[tuple[int, ...]],
        items: Sequence[Sequence[Item]],
        variants: Sequence[Variant],
    ) -> list[tuple[list[Score], float]]:
        """The scores and seconds of each variant; ``items`` are those of each row."""
        network = self._network
        length = len(rows[0])
        ids = [[*row, *[0] * (length - len(row))] for row in rows]
        places = _Places(items)
        results: list[tuple[list[Score], float]] = [([], 0.0)] * len(variants)
        started = time.perf_counter()

        def finish(number: int, state: State) -> None:
            nonlocal started
            scores = places.scores(network, state, variants[number], whole=self._batch_size == 1)
            now = time.perf_counter()
            results[number] = (scores, now - started)
            started = now

        tree = shared_tree(network.sites, [variant.removed for variant in variants])
        follow(tree, network.embed(ids), network.advance, finish)
        return results


class _Places:
    """Where in a batch the scored tokens are predicted, and what they are."""

    def __init__(self, items: Sequence[Sequence[Item]]) -> None:
        self.rows: list[int] = []
        self.positions: list[int] = []
        self.targets: list[int] = []
        self.ends: list[int] = []
        for row, group in enumerate(items):
            for item in group:
                start = len(item.context) - 1
                self.rows += [row] * len(item.continuation)
                self.positions += range(start, start + len(item.continuation))
                self.targets += item.continuation
                self.ends.append(len(self.targets))

    def scores(
        self, network: Network, state: State, variant: Variant, whole: bool = False
    ) -> list[Score]:
        """Of each item in the order they came; ``whole`` computes all logits, to take these from."""
        import torch

        targets = torch.tensor(self.targets, device=network.device)
        pieces = list(self._chunks(network, state, targets, whole))
        logprobs = torch.cat([piece for piece, _ in pieces]).cpu()
        likeliest = torch.cat([piece for _, piece in pieces]).cpu()
        if logprobs.isnan().any():
            raise SurgeonError(
                f"{variant.name}: its logits are not numbers (NaN) in {network.dtype}; "
                "try --dtype float32 or bfloat16"
            )
        starts = [0, *self.ends[:-1]]
        return [
            Score(float(logprobs[a:b].sum()), bool(likeliest[a:b].all()))
            for a, b in zip(starts, self.ends, strict=True)
        ]

    def _chunks(
        self, network: Network, state: State, targets: Any, whole: bool
    ) -> Iterator[tuple[Any, Any]]:
        """Log-probabilities of the targets and whether they are the likeliest, some at a time."""
        size = max(128, _CHUNKS[network.device.type] // network.vocab_size)
        if whole:
            size = len(self.targets)
        for start in range(0, len(self.targets), size):
            chunk = slice(start, start + size)
            places = self.rows[chunk], self.positions[chunk]
            logits = network.logits(state)[places] if whole else network.logits(state, at=places)
            wanted = targets[chunk]
            logprobs = logits.float().log_softmax(-1)
            yield logprobs.gather(-1, wanted[:, None])[:, 0], logits.argmax(-1) == wanted
