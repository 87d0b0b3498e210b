"""Llama checkpoints of random weights in the shapes of well-known models, made on the device.

For benchmarks: speed does not depend on the values, and no download is needed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from surgeon.checkpoint.header import encode_header
from surgeon.checkpoint.source import sample_folder

SHAPES: dict[str, dict[str, Any]] = {
    "llama-2-7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
    "llama-2-13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "vocab_size": 32000,
    },
    "llama-3-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    # a quarter of the 7B: enough for ratios where quantizing all of it would take minutes
    "llama-2-7b-8-layers": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 8,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
    # small enough for a dry run anywhere
    "tiny": {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 2048,
    },
}

CONTEXT = 4608


def make(shape: str, folder: Path, dtype: str = "F16") -> int:
    """Writes a checkpoint in the order of computation; returns the bytes of its weights."""
    import torch

    dims = SHAPES[shape]
    hidden, width = dims["hidden_size"], dims["intermediate_size"]
    head = hidden // dims["num_attention_heads"]
    kv = head * dims["num_key_value_heads"]
    names: list[tuple[str, tuple[int, ...]]] = [
        ("model.embed_tokens.weight", (dims["vocab_size"], hidden))
    ]
    for layer in range(dims["num_hidden_layers"]):
        parts: tuple[tuple[str, tuple[int, ...]], ...] = (
            ("input_layernorm", (hidden,)),
            ("self_attn.q_proj", (hidden, hidden)),
            ("self_attn.k_proj", (kv, hidden)),
            ("self_attn.v_proj", (kv, hidden)),
            ("self_attn.o_proj", (hidden, hidden)),
            ("post_attention_layernorm", (hidden,)),
            ("mlp.gate_proj", (width, hidden)),
            ("mlp.up_proj", (width, hidden)),
            ("mlp.down_proj", (hidden, width)),
        )
        names += [(f"model.layers.{layer}.{name}.weight", size) for name, size in parts]
    names += [("model.norm.weight", (hidden,)), ("lm_head.weight", (dims["vocab_size"], hidden))]
    kind = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}[dtype]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    item = kind.itemsize
    rows = [(n, dtype, s, item * s[0] * (s[1] if len(s) > 1 else 1)) for n, s in names]
    folder.mkdir(parents=True)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(encode_header(rows, {"format": "pt"}))
        for _, _, size, _ in rows:
            if len(size) == 1:
                values = torch.ones(size, device=device, dtype=kind)
            else:
                values = (torch.randn(size, device=device) * 0.02).to(kind)
            out.write(values.view(torch.uint8).cpu().numpy().data)
    config = json.loads((sample_folder() / "config.json").read_text()) | dims
    config |= {
        "head_dim": head,
        "tie_word_embeddings": False,
        "max_position_embeddings": CONTEXT,
        "dtype": str(kind).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(sample_folder() / name, folder)
    return sum(length for *_, length in rows)
