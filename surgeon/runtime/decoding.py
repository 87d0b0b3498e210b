"""Prefill and decode: one batch of prompts, one KV buffer per attention, tokens out.

Prompts of different length are padded on the right: the attention operator counts positions from the
left. A padded position's cache entry is overwritten by the row's first new token before it is read.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.runtime.sampler import GREEDY, INT64, Sampling, sampler
from surgeon.runtime.session import Loaded

_SMALLEST = 128
"""Positions that the attention operator is told of at first; it takes longer for more, so they
double as the text grows."""


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
    batch = _Batch(loaded, prompts, capacity, sampling)
    running = [True] * len(prompts)
    for step in range(capacity - longest):
        ids = batch.prefill() if step == 0 else batch.decode()
        yield [token if on else None for token, on in zip(ids, running, strict=True)]
        running = [on and token not in stop for token, on in zip(ids, running, strict=True)]
        if not any(running):
            return


class _Batch:
    def __init__(
        self, loaded: Loaded, prompts: Sequence[Sequence[int]], capacity: int, sampling: Sampling
    ) -> None:
        import numpy as np

        self._loaded = loaded
        self._lengths = [len(prompt) for prompt in prompts]
        self._capacity = capacity
        self._sampling = sampling
        size, longest = len(prompts), max(self._lengths)
        ids: Any = np.zeros((size, longest), np.int64)
        mask: Any = np.zeros((size, longest), np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
            mask[row, : len(prompt)] = 1
        self._prompt, self._mask = self._value(ids), self._value(mask)
        dims = loaded.checkpoint.structure.dims
        shape = (size, dims.num_key_value_heads, capacity, dims.head_dim)
        self._caches = {past: self._empty(shape, loaded.element) for past, _ in loaded.caches}
        self._ids = self._empty((size, 1), INT64)
        self._count = self._value(np.array(self._lengths, np.int64)[:, None])
        self._samplers: dict[int, Any] = {}
        self._steps: dict[int, tuple[Any, Any]] = {}
        self._longest = longest
        last = 0 if loaded.last_logits_only else np.array(self._lengths, np.int64) - 1
        self._row = self._value(np.zeros((size, 1, 1), np.int64) + np.reshape(last, (-1, 1, 1)))
        self._first = self._value(np.zeros((size, 1, 1), np.int64))

    def prefill(self) -> list[int]:
        """Runs the prompts; the first new token of each row."""
        size, length = len(self._lengths), self._longest
        kept = 1 if self._loaded.last_logits_only else length
        logits = self._empty((size, kept, self._vocabulary), self._loaded.element)
        run = self._bind(self._prompt, self._mask, logits)
        self._run(self._loaded.session, run, -1)
        total = self._bucket(length + 1)
        mask = self._empty((size, total), INT64)
        choice = self._choice(total, logits, self._row, mask)
        self._run(self._samplers[total], choice, -1)
        self._longest += 1
        self._mask = mask
        return self._read()

    def decode(self) -> list[int]:
        """Runs the last tokens; the next one of each row."""
        total, following = self._bucket(self._longest), self._bucket(self._longest + 1)
        if total not in self._steps:
            self._steps[total] = self._prepare(total)
        step, logits = self._steps[total]
        self._run(self._loaded.session, step, total)
        mask = self._mask
        if following != total:
            mask = self._empty((len(self._lengths), following), INT64)
        choice = self._choice(following, logits, self._first, mask)
        self._run(self._samplers[following], choice, -1)
        self._longest += 1
        self._mask = mask
        return self._read()

    def _prepare(self, total: int) -> tuple[Any, Any]:
        """The binding of decode steps while the mask is ``total`` wide, and their logits."""
        shape = (len(self._lengths), 1, self._vocabulary)
        logits = self._empty(shape, self._loaded.element)
        return self._bind(self._ids, self._mask, logits), logits

    def _bucket(self, length: int) -> int:
        """The width of the mask for so many positions: few widths, so that steps can be reused."""
        width = _SMALLEST
        while width < length:
            width *= 2
        return min(width, self._capacity)

    @property
    def _vocabulary(self) -> int:
        return self._loaded.checkpoint.structure.dims.vocab_size

    def _bind(self, ids: Any, mask: Any, logits: Any) -> Any:
        run = self._loaded.session.io_binding()
        run.bind_ortvalue_input("input_ids", ids)
        run.bind_ortvalue_input("attention_mask", mask)
        run.bind_ortvalue_output("logits", logits)
        for past, present in self._loaded.caches:
            run.bind_ortvalue_input(past, self._caches[past])
            run.bind_ortvalue_output(present, self._caches[past])
        return run

    def _choice(self, total: int, logits: Any, row: Any, mask: Any) -> Any:
        """The binding of a sampler, whose outputs are the inputs of the next step."""
        import onnxruntime as ort

        if total not in self._samplers:
            model = sampler(self._sampling, self._loaded.element, self._vocabulary, total)
            providers = self._loaded.session.get_providers()
            options = ort.SessionOptions()
            options.log_severity_level = 3
            text = model.SerializeToString()
            self._samplers[total] = ort.InferenceSession(text, options, providers=providers)
        run = self._samplers[total].io_binding()
        run.bind_ortvalue_input("logits", logits)
        run.bind_ortvalue_input("row", row)
        run.bind_ortvalue_input("lengths", self._count)
        run.bind_ortvalue_output("ids", self._ids)
        run.bind_ortvalue_output("new_lengths", self._count)
        run.bind_ortvalue_output("mask", mask)
        return run

    def _run(self, session: Any, binding: Any, graph_id: int) -> None:
        import onnxruntime as ort

        options = ort.RunOptions()
        if self._loaded.cuda_graph and session is self._loaded.session:
            options.add_run_config_entry("gpu_graph_id", str(graph_id))
        session.run_with_iobinding(binding, options)

    def _read(self) -> list[int]:
        return [int(token) for token in self._ids.numpy()[:, 0]]

    def _value(self, array: Any) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_numpy(array, self._loaded.device, 0)

    def _empty(self, shape: Sequence[int], element: int) -> Any:
        import onnxruntime as ort

        return ort.OrtValue.ortvalue_from_shape_and_type(shape, element, self._loaded.device, 0)
