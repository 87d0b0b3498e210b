"""Llama checkpoints of random weights in the shapes of well-known models.

For measurements: speed and memory do not depend on the values, and no download is needed.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from surgeon.checkpoint.header import DTYPE_BITS, count, encode_header
from surgeon.checkpoint.source import SINGLE, sample_folder
from surgeon.errors import SurgeonError
from surgeon.units import format_size


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, as config.json names them; no biases, embedding and head apart."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int

    @property
    def head_dim(self) -> int:
        """Elements of one head."""
        return self.hidden_size // self.num_attention_heads

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the order of computation."""
        hidden, width = self.hidden_size, self.intermediate_size
        kv = self.head_dim * self.num_key_value_heads
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
        yield "model.embed_tokens.weight", (self.vocab_size, hidden)
        for layer in range(self.num_hidden_layers):
            for name, size in parts:
                yield f"model.layers.{layer}.{name}.weight", size
        yield "model.norm.weight", (hidden,)
        yield "lm_head.weight", (self.vocab_size, hidden)


SHAPES = {
    "llama-2-7b": Shape(4096, 11008, 32, 32, 32, 32000),
    "llama-2-13b": Shape(5120, 13824, 40, 40, 40, 32000),
    "llama-3-8b": Shape(4096, 14336, 32, 32, 8, 128256),
    "llama-3-70b": Shape(8192, 28672, 80, 64, 8, 128256),
    # a quarter of the 7B: enough for ratios where quantizing all of it would take minutes
    "llama-2-7b-8-layers": Shape(4096, 11008, 8, 32, 32, 32000),
    # small enough for a dry run anywhere
    "tiny": Shape(256, 768, 6, 4, 2, 2048),
}
"""The four released models, and two for short runs."""

CONTEXT = 4608
"""Positions: the 4,000 cached tokens of the longest task, and room to decode."""

CONFIG_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
"""How config.json writes the dtypes that a shape may have."""


def find_shape(name: str) -> Shape:
    """The shape of that name; SurgeonError lists them all if there is none."""
    if name not in SHAPES:
        raise SurgeonError(f"--shape {name!r} is not known; use {', '.join(SHAPES)}")
    return SHAPES[name]


def make(name: str, folder: Path, dtype: str = "F16", *, weights: bool = True) -> int:
    """Writes a checkpoint of random weights into a new folder; returns the bytes of its tensors.

    ``dtype`` is F16, BF16 or F32. Numbers are drawn on the CUDA device where torch has one. Without
    ``weights`` the file is a header and a hole: names and sizes as they are, numbers all zero, and
    neither torch nor disk space is needed. SurgeonError if the disk is too small.
    """
    shape = find_shape(name)
    bits = DTYPE_BITS[dtype]
    rows = [(n, dtype, size, count(size) * bits // 8) for n, size in shape.tensors()]
    total = sum(length for *_, length in rows)
    folder.mkdir(parents=True)
    if weights and total > (free := shutil.disk_usage(folder).free):
        folder.rmdir()
        raise SurgeonError(
            f"{folder.parent}: {name} needs {format_size(total)}, but only {format_size(free)} are "
            "free; name another folder with --work"
        )
    with open(folder / SINGLE, "wb") as out:
        header = encode_header(rows, {"format": "pt"})
        out.write(header)
        if weights:
            for part in _numbers([size for _, _, size, _ in rows], CONFIG_DTYPES[dtype]):
                out.write(part)
        else:
            out.truncate(len(header) + total)
    sizes = {field: getattr(shape, field) for field in (*shape.__dataclass_fields__, "head_dim")}
    config = json.loads((sample_folder() / "config.json").read_text()) | sizes
    config |= {
        "tie_word_embeddings": False,
        "max_position_embeddings": CONTEXT,
        "dtype": CONFIG_DTYPES[dtype],
    }
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(sample_folder() / file, folder)
    return total


def _numbers(sizes: list[tuple[int, ...]], dtype: str) -> Iterator[memoryview]:
    """The bytes of each tensor: norms of ones, matrices of a normal distribution."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = getattr(torch, dtype)
    torch.manual_seed(0)
    for size in sizes:
        if len(size) == 1:
            values = torch.ones(size, device=device, dtype=kind)
        else:
            values = torch.randn(size, device=device, dtype=kind).mul_(0.02)
        yield values.view(torch.uint8).cpu().numpy().data
    if device == "cuda":
        torch.cuda.empty_cache()  # others measure what is free
