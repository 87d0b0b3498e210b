"""The harness's two ends of a model: the tokens that a request is about, and answers that are known.

Imported only where lm-evaluation-harness is installed; see ``harness.import_harness``.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from lm_eval.api.model import LM
from lm_eval.models.huggingface import HFLM

Pair = tuple[list[int], list[int]]
"""The ids of a context and of the continuation that is scored after it."""

SCORED = ("loglikelihood", "loglikelihood_rolling")
"""Requests that are answered by probabilities of given tokens."""


class Encoder(HFLM):  # type: ignore[misc]  # the harness is not typed
    """HFLM up to the point where it would run the model: it tokenizes, and tells what it would score.

    BOS, spaces between context and continuation and rolling windows are therefore HFLM's own. Only to
    generate it needs weights, which ``load`` brings as a transformers model, cut or not.
    """

    def __init__(self, config: Any, tokenizer: Any, load: Callable[[], Any]) -> None:
        without = SimpleNamespace(config=config, device=torch.device("cpu"))
        super().__init__(pretrained=without, tokenizer=tokenizer, backend="causal")
        self._load = load
        self._pairs: list[Pair] = []

    def pairs(self, request: Any) -> list[Pair]:
        """What has to be scored for one request: a pair, or for a rolling one a pair a window.

        Long contexts are cut from the left to what the model can read, as HFLM does it.
        """
        self._pairs = []
        getattr(self, request.request_type)([request], disable_tqdm=True)
        return self._pairs

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], *_: Any, **__: Any
    ) -> list[tuple[float, bool]]:
        for _, context, continuation in requests:
            room = self.max_length + 1 - len(continuation)
            self._pairs.append((context[-room:] if room > 0 else [], continuation))
        return [(0.0, False)] * len(requests)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """HFLM's own, with the weights."""
        self._model = self._load()
        self._device = self._model.device
        made: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        return made


class Answers(LM):  # type: ignore[misc]
    """A model for the harness that looks its answers up; ``generate`` makes those that are text."""

    def __init__(
        self, found: Mapping[Hashable, Any], generate: Callable[[list[Any]], list[str]]
    ) -> None:
        super().__init__()
        self._found, self._generate = found, generate

    def loglikelihood(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the greedy one."""
        return [self._found[key(request)] for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], **_: Any) -> list[float]:
        """Log-probability of each text."""
        return [self._found[key(request)] for request in requests]

    def generate_until(self, requests: list[Any], **_: Any) -> list[str]:
        """Text after each prompt."""
        return self._generate(requests)


def key(request: Any) -> Hashable:
    """What two requests have in common if they have one answer."""
    return (request.request_type, request.args)
