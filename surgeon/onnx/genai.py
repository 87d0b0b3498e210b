"""genai_config.json: what onnxruntime-genai wants to know of a graph. It refuses unknown keys."""

from typing import Any

from surgeon.checkpoint.source import Checkpoint
from surgeon.onnx.graph import KEY, PRESENT_KEY, PRESENT_VALUE, VALUE

GENAI = "genai_config.json"

MAX_LENGTH = 4096
"""The default length of a text; onnxruntime-genai allocates the cache for all of it."""


def genai_config(
    checkpoint: Checkpoint, generation: dict[str, Any], filename: str, length: int, cuda: bool
) -> dict[str, Any]:
    """The configuration for ``filename``, whose rope tables have ``length`` positions.

    ``generation`` is generation_config.json: its token ids win over config.json's. Layers are
    counted as onnxruntime-genai counts them, by their KV caches.
    """
    config, dims = checkpoint.family.filled(checkpoint.config), checkpoint.structure.dims

    def token(key: str) -> Any:
        value = generation.get(key)
        return config.get(key) if value is None else value

    eos = token("eos_token_id")
    if eos == []:
        eos = None
    first = eos[0] if isinstance(eos, list) else eos
    pad = token("pad_token_id")
    return {
        "model": {
            "type": "llama",
            "bos_token_id": token("bos_token_id") if token("bos_token_id") is not None else 1,
            "eos_token_id": eos if eos is not None else 2,
            "pad_token_id": pad if pad is not None else (first if first is not None else 0),
            "context_length": length,
            "vocab_size": dims.vocab_size,
            "decoder": {
                "session_options": {
                    "log_id": "surgeon",
                    "provider_options": [{"cuda": {"enable_cuda_graph": "0"}}] if cuda else [],
                },
                "filename": filename,
                "head_size": dims.head_dim,
                "hidden_size": dims.hidden_size,
                "num_attention_heads": dims.num_attention_heads,
                "num_hidden_layers": checkpoint.structure.num_attentions,
                "num_key_value_heads": dims.num_key_value_heads,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": KEY.replace("{}", "%d"),
                    "past_value_names": VALUE.replace("{}", "%d"),
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": PRESENT_KEY.replace("{}", "%d"),
                    "present_value_names": PRESENT_VALUE.replace("{}", "%d"),
                },
            },
        },
        "search": {
            "do_sample": bool(generation.get("do_sample", False)),
            "temperature": float(generation.get("temperature") or 1.0),
            "top_p": float(generation.get("top_p") or 1.0),
            "top_k": int(generation.get("top_k") or 50),
            "max_length": min(length, MAX_LENGTH),
            "past_present_share_buffer": True,
        },
    }
