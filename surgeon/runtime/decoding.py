"""Prefill and decode: one batch of prompts, one KV buffer per attention, tokens out.

Prompts of different length are padded on the right: the attention operator counts positions from the
left. A padded position's cache entry is overwritten by the row's first new token before it is read.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.runtime.sampler import GREEDY, INT64, Sampling, sampler
from surgeon.runtime.session import Loaded


def generate_ids(
    loaded: Loaded,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop: Sequence[int] = (),
) -> Iterator[list[int | None]]:
    """Yields one new token a row and step; None for rows that have met a token of ``stop``.

    The stop token itself is yielded. Ends when all rows have ended, after ``max_new_tokens``, or
    where the rope tables end. Raises SurgeonError for prompts that are empty or too long.
    """
    longest = max((len(prompt) for prompt in prompts), default=0)
    if not prompts or not all(prompts):
        raise SurgeonError("generate: a prompt has no tokens; give it some text")
    if longest >= loaded.context_length:
        raise SurgeonError(
            f"generate: a prompt of {longest} tokens leaves no room in the context of "
            f"{loaded.context_length}"
        )
    capacity = min(loaded.context_length, longest + max_new_tokens)
    return _steps(Batch(loaded, prompts, capacity, sampling), len(prompts), capacity - longest, stop)


def _steps(batch: "Batch", rows: int, count: int, stop: Sequence[int]) -> Iterator[list[int | None]]:
    running = [True] * rows
    try:
        for step in range(count):
            ids = batch.prefill() if step == 0 else batch.decode(more=step + 1 < count)
            yield [token if on else None for token, on in zip(ids, running, strict=True)]
            running = [on and token not in stop for token, on in zip(ids, running, strict=True)]
            if not any(running):
                return
    finally:
        batch.settle()


_NOT_CAPTURED = "-1"
"""onnxruntime's word for a run that a CUDA graph session takes as it comes."""


class Batch:
    """The state of one batch: prompts, caches and the buffers that each step reads and writes.

    All buffers keep their places from step to step, so that a CUDA graph can be replayed over them;
    the sampler writes the next step's ids and mask where the model reads them. Ids and lengths have two
    places in turn: onnxruntime makes a run several times before it captures it, so a run has to leave
    alone what it reads, and the host reads the ids of one step while the device is at the next.
    ``capture_prefill`` pays off where the same shape of prompts comes again in the same batch.
    """

    def __init__(
        self,
        loaded: Loaded,
        prompts: Sequence[Sequence[int]],
        capacity: int,
        sampling: Sampling,
        capture_prefill: bool = False,
    ) -> None:
        import numpy as np

        self._loaded = loaded
        # a captured graph knows its buffers by their addresses, so each batch has one of its own
        self._graph_ids, self._choice_ids = (
            [str(next(loaded.graph_ids)) for _ in range(2)] for _ in range(2)
        )
        self._prefill_id = str(next(loaded.graph_ids)) if capture_prefill else _NOT_CAPTURED
        # a captured draw would be the same draw at every replay
        self._draws = sampling.temperature > 0
        self._size, longest = len(prompts), max(len(prompt) for prompt in prompts)
        lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        ids: Any = np.zeros((self._size, longest), np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        real = (np.arange(longest) < lengths[:, None]).astype(np.int64)
        dims = loaded.checkpoint.structure.dims
        shape = (self._size, dims.num_key_value_heads, capacity, dims.head_dim)
        self._caches = {past: self._empty(shape, loaded.element) for past, _ in loaded.caches}
        self._ids = [self._empty((self._size, 1), INT64) for _ in range(2)]
        self._mask = self._empty((self._size, capacity), INT64)
        self._prompt_lengths = lengths[:, None].copy()  # on a CPU a value shares its array
        self._lengths = self._value(lengths[:, None]), self._empty((self._size, 1), INT64)
        self._sampler = self._sampler_session(sampling, dims.vocab_size, capacity)
        last = np.zeros_like(lengths) if loaded.last_logits_only else lengths - 1
        kept = 1 if loaded.last_logits_only else longest
        logits = self._empty((self._size, kept, dims.vocab_size), loaded.element)
        self._prompts = self._value(ids)
        self._prefill = (
            self._bind(self._prompts, self._value(real), logits),
            self._choice(logits, last, 0),
        )
        logits = self._empty((self._size, 1, dims.vocab_size), loaded.element)
        self._decodes = [self._bind(ids, self._mask, logits) for ids in self._ids]
        self._choices = [self._choice(logits, last * 0, turn) for turn in range(2)]
        self._turn = 0
        self._marks = [loaded.stream.mark() for _ in range(2)] if loaded.stream else None
        self._begun: deque[int] = deque()  # steps whose tokens nobody has read, by where they will be

    def prefill(self) -> list[int]:
        """Runs the prompts; the first new token of each row.

        To be called once before ``decode``; again and again to measure it.
        """
        if self._begun:
            self.settle()
        self._run(self._loaded.session, self._prefill[0], self._prefill_id)
        return self._first()

    def refill(self, ids: Any) -> None:
        """Other prompts in place of the first: int64 [batch, length], of the same lengths."""
        self._prompts.update_inplace(ids)

    def rewind(self) -> list[int]:
        """Back to where ``prefill`` ended; what the caches hold beyond the prompts is never read."""
        if self._begun:
            self.settle()
        self._lengths[0].update_inplace(self._prompt_lengths)
        return self._first()

    def _first(self) -> list[int]:
        self._run(self._sampler, self._prefill[1], _NOT_CAPTURED if self._draws else self._prefill_id)
        self._end_turn(0)
        return self._take()

    def decode(self, more: bool = False) -> list[int]:
        """Runs the last tokens; the next one of each row.

        With ``more`` a device that works by itself begins the step after it too, so that it does not
        wait until the host has read this one; the next call has its tokens. There has to be room for
        them, and ``settle`` has to come before the batch goes.
        """
        if not self._begun:
            self._begin()
        if more and self._marks:
            self._begin()
        return self._take()

    def settle(self) -> None:
        """Waits until nothing that was begun is left, also of a step that an error broke off. Tokens
        that nobody has read are lost."""
        self._begun.clear()
        if self._marks:
            self._marks[0].set()
            self._marks[0].wait()

    def step(self) -> None:
        """The part of ``decode`` that is the model: logits for the last tokens, and their cache."""
        self._model()
        self.settle()

    def _begin(self) -> None:
        self._model()
        turn = self._turn
        graph_id = _NOT_CAPTURED if self._draws else self._choice_ids[turn]
        self._run(self._sampler, self._choices[turn], graph_id)
        self._end_turn(turn)

    def _model(self) -> None:
        self._run(self._loaded.session, self._decodes[self._turn], self._graph_ids[self._turn])

    def _end_turn(self, turn: int) -> None:
        self._turn = 1 - turn
        if self._marks:
            self._marks[self._turn].set()
        self._begun.append(self._turn)

    def _take(self) -> list[int]:
        place = self._begun.popleft()
        if self._marks:
            self._marks[place].wait()
        return [int(token) for token in self._ids[place].numpy()[:, 0]]

    def _run(self, session: Any, binding: Any, graph_id: str) -> None:
        """On a stream it returns at once: what is read needs a mark."""
        import onnxruntime as ort

        options = ort.RunOptions()
        if self._loaded.cuda_graph:
            options.add_run_config_entry("gpu_graph_id", graph_id)
        if self._marks:
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        session.run_with_iobinding(binding, options)

    def _sampler_session(self, sampling: Sampling, vocabulary: int, capacity: int) -> Any:
        import onnxruntime as ort

        text = sampler(sampling, self._loaded.element, vocabulary, capacity).SerializeToString()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        return ort.InferenceSession(text, options, providers=self._loaded.providers)

    def _bind(self, ids: Any, mask: Any, logits: Any) -> Any:
        run = self._loaded.session.io_binding()
        run.bind_ortvalue_input("input_ids", ids)
        run.bind_ortvalue_input("attention_mask", mask)
        run.bind_ortvalue_output("logits", logits)
        for past, present in self._loaded.caches:
            run.bind_ortvalue_input(past, self._caches[past])
            run.bind_ortvalue_output(present, self._caches[past])
        return run

    def _choice(self, logits: Any, row: Any, turn: int) -> Any:
        """The sampler reading lengths from the buffer of this turn, and writing the others."""
        run = self._sampler.io_binding()
        run.bind_ortvalue_input("logits", logits)
        run.bind_ortvalue_input("row", self._value(row[:, None, None]))
        run.bind_ortvalue_input("lengths", self._lengths[turn])
        run.bind_ortvalue_output("ids", self._ids[1 - turn])
        run.bind_ortvalue_output("new_lengths", self._lengths[1 - turn])
        run.bind_ortvalue_output("mask", self._mask)
        return run

    def _value(self, array: Any) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_numpy(array, self._loaded.device, 0)

    def _empty(self, shape: Sequence[int], element: int) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_shape_and_type(shape, element, self._loaded.device, 0)
