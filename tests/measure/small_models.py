"""Small random models of the families that transformers runs with Llama's layout."""

from typing import Any

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOWS = {"sliding_window": 5}
MIXED = ["full_attention", "sliding_attention", "sliding_attention"] * 2

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": WINDOWS,
    "qwen2": {**WINDOWS, "use_sliding_window": True, "layer_types": MIXED},
    "qwen3": {**WINDOWS, "use_sliding_window": True, "layer_types": MIXED[::-1]},
    "granite": {
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.1,
        "logits_scaling": 8.0,
    },
    "smollm3": {"no_rope_layers": [1, 1, 1, 0, 1, 1]},
}


def make_model(family: str, **changes: Any) -> Any:
    """A model of transformers' own class, in float32 with weights that make every sublayer count."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(sorted(FAMILIES).index(family))
    config = AutoConfig.for_model(family, **{**SIZES, **FAMILIES[family], **changes})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.normal_(1.0 if "norm" in key else 0.0, 0.1 if "norm" in key else 0.3)
    return model
