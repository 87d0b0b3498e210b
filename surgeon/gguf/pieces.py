"""Which tensors a GGUF file has, and what becomes of each on its way there.

llama.cpp has two architectures for what surgeon leaves: ``llama``, whose blocks are all alike, and
``deci``, which has a number of heads and an MLP width for every block. Names and order of rows are
those of its convert_hf_to_gguf.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from surgeon.checkpoint.header import Tensor, count
from surgeon.checkpoint.source import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.onnx.rope import Rope, frequencies
from surgeon.plan import Sublayer

NAMES = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
NORMS = {Sublayer.ATTENTION: "attn_norm", Sublayer.MLP: "ffn_norm"}

BLOCK = 32
"""Elements that share a scale in Q8_0; a row is a whole number of them."""

Q8_0_BYTES = 2 + BLOCK


@dataclass(frozen=True)
class Piece:
    """A tensor of the file: ``dtype`` is F32, F16, BF16 or Q8_0, ``shape`` as in safetensors.

    ``source`` is None for what is made up: ``fill``, everywhere or one by one. ``head_dim`` is set
    where the rows of every head change places: llama.cpp rotates neighbours, transformers the two
    halves of a head.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    source: Tensor | None
    head_dim: int | None = None
    fill: float | tuple[float, ...] = 0.0

    @property
    def length(self) -> int:
        """Bytes of the tensor."""
        elements = count(self.shape)
        if self.dtype == "Q8_0":
            return elements // BLOCK * Q8_0_BYTES
        return elements * (4 if self.dtype == "F32" else 2)


def architecture(checkpoint: Checkpoint) -> str:
    """What llama.cpp calls the model."""
    return "llama" if checkpoint.structure.plain else "deci"


def pieces(checkpoint: Checkpoint, rope: Rope, dtype: str) -> tuple[Piece, ...]:
    """The tensors in the order of computation; matrices in ``dtype``, vectors in float32.

    A matrix whose rows are no multiple of 32 is F16 instead of Q8_0. Raises SurgeonError for a tensor
    that the format has no place for: leaving it out would change what is computed.
    """
    found = (*_rope_factors(rope), *_pieces(checkpoint, dtype))
    used = {piece.source.name for piece in found if piece.source}
    for name in checkpoint.tensors:
        leftover = name.endswith("rotary_emb.inv_freq")
        head = checkpoint.structure.tied and name == f"{checkpoint.family.head}.weight"
        if not (name in used or leftover or head):
            where = checkpoint.source.where(checkpoint.tensors[name].file)
            raise SurgeonError(f"{where}: tensor {name!r} has no place in a GGUF file of a Llama")
    return found


def _pieces(checkpoint: Checkpoint, dtype: str) -> Iterator[Piece]:
    structure, family, tensors = checkpoint.structure, checkpoint.family, checkpoint.tensors

    def piece(name: str, tensor: Tensor, head_dim: int | None = None) -> Piece:
        return Piece(name, tensor.shape, _dtype(tensor.shape, dtype), tensor, head_dim)

    yield piece("token_embd.weight", tensors[f"{family.embedding}.weight"])
    for layer in range(structure.num_layers):
        if layer == 0 and not structure.has(0, Sublayer.ATTENTION):
            yield from _stub(checkpoint, dtype)
        for sublayer in Sublayer:
            if not structure.has(layer, sublayer):
                continue
            part, prefix = family.part(sublayer), f"{family.layers}.{layer}."
            yield piece(f"blk.{layer}.{NORMS[sublayer]}.weight", tensors[f"{prefix}{part.norm}.weight"])
            for name in part.names():
                matrix = name.rpartition(".")[2]
                heads = structure.dims.head_dim if matrix in ("q_proj", "k_proj") else None
                # a bias that the config does not speak of is none to transformers
                for suffix in ("weight", "bias") if matrix in structure.biases else ("weight",):
                    tensor = tensors[f"{prefix}{name}.{suffix}"]
                    yield piece(f"blk.{layer}.{NAMES[matrix]}.{suffix}", tensor, heads)
    yield piece("output_norm.weight", tensors[f"{family.norm}.weight"])
    if not structure.tied:
        yield piece("output.weight", tensors[f"{family.head}.weight"])


def _rope_factors(rope: Rope) -> Iterator[Piece]:
    """How much slower than plain rope every frequency of Llama 3's turns, as llama.cpp wants it."""
    if rope.kind == "llama3":
        plain, _ = frequencies(replace(rope, kind="default"))
        scaled, _ = frequencies(rope)
        factors = tuple(map(float, plain / scaled))
        yield Piece("rope_freqs.weight", (len(factors),), "F32", None, fill=factors)


def _stub(checkpoint: Checkpoint, dtype: str) -> Iterator[Piece]:
    """An attention of zeros for the first block: llama.cpp wants one there.

    With heads but no KV heads the block is what ``deci`` calls linear: one matrix, which is all zeros.
    """
    hidden = checkpoint.structure.dims.hidden_size
    yield Piece("blk.0.attn_norm.weight", (hidden,), "F32", None, fill=1.0)
    yield Piece("blk.0.attn_output.weight", (hidden, hidden), _dtype((hidden, hidden), dtype), None)


def _dtype(shape: tuple[int, ...], dtype: str) -> str:
    if len(shape) == 1:
        return "F32"
    return "F16" if dtype == "Q8_0" and shape[-1] % BLOCK else dtype


def head_counts(checkpoint: Checkpoint) -> tuple[list[int], list[int], list[int]]:
    """Heads, KV heads and MLP width of every block, 0 for what it lacks."""
    structure, dims = checkpoint.structure, checkpoint.structure.dims
    layers = range(structure.num_layers)
    attention = [structure.has(layer, Sublayer.ATTENTION) for layer in layers]
    heads = [
        dims.num_attention_heads if there or layer == 0 else 0
        for layer, there in zip(layers, attention, strict=True)
    ]
    kv_heads = [dims.num_key_value_heads if there else 0 for there in attention]
    return heads, kv_heads, list(structure.mlp_widths)
