"""A loaded model as a list of sublayers on a residual stream, to be run one sublayer at a time.

The stream can be kept at any point and continued in several ways: that is how cuts share what they have
in common. Numbers are those of transformers, bit for bit: its own modules run in its own order.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from surgeon.errors import SurgeonError
from surgeon.measure.memory import out_of_memory
from surgeon.measure.modules import apply, enter, leave, sites, stack
from surgeon.plan import Site


@dataclass(frozen=True)
class State:
    """The residual stream of a batch: ``hidden`` [batch, length, width], in the model's dtype.

    ``arguments`` are what the layers of this batch take beside it: masks, positions, rotary embeddings.
    """

    hidden: Any
    arguments: tuple[Mapping[str, Any], ...]


class Network:
    """A transformers model of Llama's layout, in evaluation mode.

    ``sites`` are the sublayers that it has; ``num_layers`` counts its layers, with those that lack a
    sublayer. There is no KV cache: positions run from 0, and rows may be padded on the right, since no
    token sees what follows it.
    """

    def __init__(self, model: Any, tokenizer: Any = None) -> None:
        """Takes a model that is already loaded. SurgeonError if its layers are not Llama's."""
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._stack = stack(model)
        self.sites: tuple[Site, ...] = sites(self._stack)
        self.num_layers = len(self._stack.layers)

    @classmethod
    def load(cls, model: str | os.PathLike[str], device: str = "auto", dtype: str = "auto") -> Self:
        """Loads a checkpoint, cut before or not: a folder, ``"sample"``, ORG/NAME.

        ``dtype`` auto is that of the checkpoint on CUDA and float32 on the CPU. SurgeonError if it is
        no checkpoint that surgeon knows, or its weights do not fit into the memory.
        """
        from surgeon.checkpoint.source import open_local
        from surgeon.runtime.with_transformers import load_model

        _, folder = open_local(model)
        try:
            return cls(*load_model(str(folder), device, dtype))
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise SurgeonError(
                f"{model}: out of memory with its weights alone; "
                "use --dtype bfloat16 or another --device"
            ) from None

    @property
    def device(self) -> Any:
        """Where its weights lie, as a torch.device."""
        return self.model.device

    @property
    def dtype(self) -> str:
        """What it computes in: "float32"."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def vocab_size(self) -> int:
        """The width of its logits."""
        return int(self.model.config.vocab_size)

    @property
    def absent(self) -> frozenset[Site]:
        """The sublayers that the model itself lacks, since it was cut before."""
        from surgeon.plan import Sublayer

        every = {(layer, sub) for layer in range(self.num_layers) for sub in Sublayer}
        return frozenset(every - set(self.sites))

    def embed(self, ids: Any) -> State:
        """The stream before the first sublayer, of token ids [batch, length], a tensor or lists."""
        import torch

        with torch.inference_mode():
            return State(*enter(self._stack, torch.as_tensor(ids, device=self.device)))

    def advance(self, state: State, site: Site) -> State:
        """The stream after one more sublayer; ``state`` itself stays as it is."""
        import torch

        layer, sublayer = site
        with torch.inference_mode():
            hidden = apply(
                self._stack.layers[layer], sublayer, state.hidden, dict(state.arguments[layer])
            )
        return replace(state, hidden=hidden)

    def logits(self, state: State, at: tuple[Any, Any] | None = None) -> Any:
        """The final norm and the head: logits [batch, length, vocabulary], in the model's dtype.

        ``at`` = (rows, positions), two sequences of n numbers, asks for n places only: [n, vocabulary].
        """
        import torch

        with torch.inference_mode():
            if at is None:
                return leave(self.model, self._stack, state.hidden)
            rows, positions = (torch.as_tensor(a, device=self.device) for a in at)
            return leave(self.model, self._stack, state.hidden[rows, positions][None])[0]
