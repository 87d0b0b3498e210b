"""What a GGUF file says of its model: widths, positions, tokenizer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeon.checkpoint.source import Checkpoint
from surgeon.gguf.pieces import Piece, architecture, head_counts
from surgeon.gguf.tokenizer import Tokenizer
from surgeon.onnx.rope import Rope

if TYPE_CHECKING:
    from gguf import GGUFWriter

FILE_TYPES = {"F32": 0, "F16": 1, "Q8_0": 7, "BF16": 32}
"""ggml's numbers for what most tensors of a file are (llama_ftype)."""


def write_header(
    path: Path,
    checkpoint: Checkpoint,
    tensors: tuple[Piece, ...],
    dtype: str,
    rope: Rope,
    tokenizer: Tokenizer,
    description: str | None,
) -> None:
    """Writes everything that comes before the tensors' bytes, padded to where those begin."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, architecture(checkpoint))
    writer.add_name(checkpoint.source.name.rpartition("/")[2])
    if description:
        writer.add_description(description)
    writer.add_file_type(FILE_TYPES[dtype])
    if dtype == "Q8_0":
        writer.add_quantization_version(2)
    _widths(writer, checkpoint)
    _rope(writer, rope)
    _tokenizer(writer, tokenizer)
    for piece in tensors:
        kind = GGMLQuantizationType[piece.dtype]
        writer.add_tensor_info(piece.name, piece.shape, np.dtype(np.float32), piece.length, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with open(path, "ab") as stream:
        stream.write(bytes(-stream.tell() % writer.data_alignment))


def _widths(writer: "GGUFWriter", checkpoint: Checkpoint) -> None:
    structure, dims = checkpoint.structure, checkpoint.structure.dims
    writer.add_block_count(structure.num_layers)
    writer.add_embedding_length(dims.hidden_size)
    writer.add_vocab_size(dims.vocab_size)
    writer.add_key_length(dims.head_dim)
    writer.add_value_length(dims.head_dim)
    writer.add_layer_norm_rms_eps(float(checkpoint.config.get("rms_norm_eps", 1e-6)))
    if structure.plain:
        writer.add_head_count(dims.num_attention_heads)
        writer.add_head_count_kv(dims.num_key_value_heads)
        writer.add_feed_forward_length(dims.intermediate_size)
    else:
        heads, kv_heads, widths = head_counts(checkpoint)
        writer.add_head_count(heads)
        writer.add_head_count_kv(kv_heads)
        writer.add_feed_forward_length(widths)


def _rope(writer: "GGUFWriter", rope: Rope) -> None:
    from gguf import RopeScalingType

    writer.add_context_length(rope.length)
    writer.add_rope_dimension_count(rope.head_dim)
    writer.add_rope_freq_base(rope.theta)
    if rope.kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope.settings["factor"]))


def _tokenizer(writer: "GGUFWriter", tokenizer: Tokenizer) -> None:
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    if tokenizer.scores:
        writer.add_token_scores(tokenizer.scores)
    if tokenizer.merges:
        writer.add_token_merges(tokenizer.merges)
    if tokenizer.space_prefix is not None:
        writer.add_add_space_prefix(tokenizer.space_prefix)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(tokenizer.add_eos)
    add: dict[str, Any] = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "eot": writer.add_eot_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for name, number in tokenizer.special.items():
        add[name](number)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
