"""Small random Llamas, the cuts made of them, and the virtual cut that each is measured against."""

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType
from typing import Any

import surgeon
from surgeon.plan import Sublayer

ATTENTION, MLP = Sublayer.ATTENTION, Sublayer.MLP

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # short, so that frequencies of all three kinds are among the few of a small head
    "original_max_position_embeddings": 64,
}

SOURCES: dict[str, dict[str, Any]] = {
    "gqa": {"num_key_value_heads": 2, "rope_theta": 50000.0},
    "tied-mha": {"num_key_value_heads": 4, "tie_word_embeddings": True, "intermediate_size": 136},
    "biased": {
        "num_key_value_heads": 1,
        "attention_bias": True,
        "mlp_bias": True,
        "intermediate_size": 300,
    },
    "llama3": {
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3_ROPE,
    },
    "linear": {
        "num_key_value_heads": 2,
        "rope_theta": 1000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    },
}
LAYERS = {"sample": 12, "reference": 24} | dict.fromkeys(SOURCES, 6)


@dataclass(frozen=True)
class Cut:
    """The arguments of ``surgeon.prune``, and the sites that must be gone, worked out by hand here."""

    removed: frozenset[tuple[int, Sublayer]]
    arguments: dict[str, Any] = field(hash=False)


def _window(drop: str, count: int | None = None, keep_last: bool = False) -> Callable[[int], Cut]:
    def cut(layers: int) -> Cut:
        gone = layers if count is None else count
        first = layers - gone - keep_last
        return Cut(
            _sites(drop, range(first, first + gone)),
            {"drop": drop, "last": gone, "keep_last": keep_last},
        )

    return cut


def _list(drop: str, text: str, *numbers: int) -> Callable[[int], Cut]:
    return lambda layers: Cut(_sites(drop, numbers), {"drop": drop, "layers": text})


def _mixed(removed: Callable[[int], set[tuple[int, Sublayer]]]) -> Callable[[int], Cut]:
    def cut(layers: int) -> Cut:
        gone = frozenset(removed(layers))
        return Cut(gone, {"plan": surgeon.Plan(layers, gone)})

    return cut


def _sites(drop: str, layers: Any) -> frozenset[tuple[int, Sublayer]]:
    kinds = {"attn": [ATTENTION], "mlp": [MLP], "block": [ATTENTION, MLP]}[drop]
    return frozenset((layer, kind) for layer in layers for kind in kinds)


def _all_but(layers: int, *kept: tuple[int, Sublayer]) -> set[tuple[int, Sublayer]]:
    return set(_sites("block", range(layers))) - set(kept)


CUTS: dict[str, Callable[[int], Cut]] = {
    "attn": _window("attn", 2),
    "attn-keep-last": _window("attn", 2, True),
    "mlp": _window("mlp", 2),
    "mlp-keep-last": _window("mlp", 2, True),
    "block": _window("block", 2),
    "block-keep-last": _window("block", 2, True),
    "attn-first": _list("attn", "0,2-3", 0, 2, 3),
    "mlp-first": _list("mlp", "0,4", 0, 4),
    "block-first": _list("block", "3,0", 0, 3),
    "no-attention": _window("attn"),
    "no-mlp": _window("mlp"),
    # attention i and MLP i+1 become one whole block: a shorter plain Llama of mixed parts
    "joined": _mixed(lambda n: {(1, MLP), (2, ATTENTION)}),
    "all-joined": _mixed(lambda n: {(i, MLP if i % 2 == 0 else ATTENTION) for i in range(n)}),
    # and with the parities swapped, both ends stand alone
    "half-joined": _mixed(lambda n: {(i, ATTENTION if i % 2 == 0 else MLP) for i in range(n)}),
    "scattered": _mixed(
        lambda n: {(0, ATTENTION), (1, MLP), (2, ATTENTION), (2, MLP), (4, MLP), (n - 1, ATTENTION)}
    ),
    "one-mlp": _mixed(lambda n: _all_but(n, (3, MLP))),
    "one-attention": _mixed(lambda n: _all_but(n, (3, ATTENTION))),
}
PLAIN = ("block", "block-keep-last", "block-first", "joined", "all-joined")
"""Cuts that leave whole blocks only."""


def make_source(name: str, folder: Path) -> None:
    """Writes a random Llama with transformers' own class, and the sample's tokenizer with it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(sorted(SOURCES).index(name))
    config = LlamaConfig(
        **{
            "vocab_size": 2048,  # the sample's, for its tokenizer
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": LAYERS[name],
            "num_attention_heads": 4,
            "max_position_embeddings": 512,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **SOURCES[name],
        }
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key:
                value.copy_(1 + 0.3 * torch.randn_like(value))  # ones would hide mixed up norms
            else:
                value.copy_(0.2 * torch.randn_like(value))
    if "rope_scaling" in SOURCES[name]:
        width = model.model.rotary_emb.inv_freq.numel()
        plain = SOURCES[name]["rope_theta"] ** -(torch.arange(width) / width)
        assert not torch.allclose(model.model.rotary_emb.inv_freq, plain), "the scaling got lost"
    model.save_pretrained(folder)
    sample = Path(surgeon.__file__).parent / "sample"
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample / file, folder)


def read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


@contextmanager
def virtual_cut(model: Any, removed: frozenset[tuple[int, Sublayer]]) -> Iterator[Any]:
    """A whole model that skips sublayers while the context lasts.

    Its attentions keep their numbers, so it has to run without a cache: nothing fills slot 0.
    """

    def forward(self: Any, hidden_states: Any, **kwargs: Any) -> Any:
        scale = getattr(self, "residual_multiplier", 1.0)  # Granite's
        if ATTENTION in self.kept:
            states = self.input_layernorm(hidden_states)
            hidden_states = hidden_states + scale * self.self_attn(hidden_states=states, **kwargs)[0]
        if MLP in self.kept:
            states = self.post_attention_layernorm(hidden_states)
            hidden_states = hidden_states + scale * self.mlp(states)
        return (hidden_states,) if in_tuples else hidden_states

    # as Granite's layers of transformers 4 do
    own = type(model.model.layers[0]).forward
    in_tuples = "output_attentions" in inspect.signature(own).parameters

    for number, layer in enumerate(model.model.layers):
        layer.kept = [kind for kind in Sublayer if (number, kind) not in removed]
        layer.forward = MethodType(forward, layer)
    try:
        yield model
    finally:
        for layer in model.model.layers:
            del layer.forward, layer.kept
