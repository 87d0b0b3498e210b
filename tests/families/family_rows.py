"""One row a family: a small random model of transformers' own class, and what a cut of it must speak.

Windows are shorter than the prompts of the tests, and no two neighbouring layers are alike, so that a
mixed up layer number shows.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import surgeon
from surgeon.plan import Sublayer

ATTENTION, MLP = Sublayer.ATTENTION, Sublayer.MLP
LAYERS = 6
NAS = "nemotron-nas"


@dataclass(frozen=True)
class Row:
    """``dialect`` is that of cuts with incomplete blocks."""

    prefix: str
    dialect: str
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        return self.prefix.lower()


_WINDOW = {"use_sliding_window": True, "sliding_window": 7}
_MIXED = ["sliding_attention", "full_attention", "full_attention"] * 2

ROWS = {
    "mistral": Row("Mistral", NAS, {"sliding_window": None, "head_dim": 32}),
    "mistral-window": Row("Mistral", "surgeon-mistral", {"sliding_window": 7}),
    "qwen2": Row("Qwen2", "surgeon-qwen2"),
    "qwen2-window": Row("Qwen2", "surgeon-qwen2", {**_WINDOW, "max_window_layers": 3}),
    "qwen3": Row("Qwen3", "surgeon-qwen3", {"head_dim": 32}),
    "qwen3-window": Row("Qwen3", "surgeon-qwen3", {"head_dim": 16, **_WINDOW, "layer_types": _MIXED}),
    "granite": Row(
        "Granite",
        "surgeon-granite",
        {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.3,
            "attention_multiplier": 0.2,
            "logits_scaling": 0.25,
            "attention_bias": True,
        },
    ),
    "smollm3": Row(
        "SmolLM3", "surgeon-smollm3", {"tie_word_embeddings": True, "no_rope_layer_interval": 2}
    ),
    "smollm3-window": Row(
        "SmolLM3", "surgeon-smollm3", {**_WINDOW, "no_rope_layers": [1, 0, 1, 1, 0, 0]}
    ),
}

CUTS: dict[str, frozenset[tuple[int, Sublayer]]] = {
    "attn": frozenset({(3, ATTENTION), (4, ATTENTION)}),
    "mlp": frozenset({(1, MLP), (5, MLP)}),
    "block": frozenset((layer, kind) for layer in (1, 2) for kind in Sublayer),
    # attention 1 and MLP 2 become one block
    "joined": frozenset({(1, MLP), (2, ATTENTION)}),
    "scattered": frozenset({(0, ATTENTION), (1, MLP), (2, ATTENTION), (5, ATTENTION)}),
}
PLAIN = ("block", "joined")


def make_source(name: str, folder: Path) -> None:
    """Writes the model of a row, with the sample's tokenizer."""
    import torch
    import transformers

    row = ROWS[name]
    torch.manual_seed(sorted(ROWS).index(name))
    config = getattr(transformers, f"{row.prefix}Config")(
        vocab_size=2048,  # the sample's, for its tokenizer
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
        **row.config,
    )
    model = getattr(transformers, f"{row.prefix}ForCausalLM")(config)
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.normal_(1.0 if "norm" in key else 0.0, 0.3 if "norm" in key else 0.2)
    model.save_pretrained(folder)
    sample = Path(surgeon.__file__).parent / "sample"
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sample / file, folder)
