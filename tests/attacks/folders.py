"""Attacks that need more than one file or a long one: each function spoils a valid checkpoint."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import checkpoints

WEIGHTS = "model.safetensors"
Spoil = Callable[[Path], None]
ATTACKS: dict[str, tuple[Spoil, tuple[str, ...]]] = {}
"""name -> what to do to the folder, and words that the refusal must have"""


def attack(*words: str) -> Callable[[Spoil], Spoil]:
    def add(spoil: Spoil) -> Spoil:
        ATTACKS[spoil.__name__] = spoil, words
        return spoil

    return add


def _rewrite(model: Path, change: Callable[[checkpoints.Weights], None]) -> None:
    tensors = checkpoints.read_file(model / WEIGHTS)
    change(tensors)
    checkpoints.write_weights(model / WEIGHTS, tensors)


def _truncate(share: float, name: str, word: str) -> None:
    def spoil(model: Path) -> None:
        os.truncate(model / WEIGHTS, int((model / WEIGHTS).stat().st_size * share))

    ATTACKS[name] = spoil, (WEIGHTS, word)


_truncate(0, "truncated_to_nothing", "truncated")
_truncate(0.1, "truncated_in_the_header", "truncated")
_truncate(0.9, "truncated_in_the_data", "truncated")


@attack(WEIGHTS, "truncated")
def last_byte_missing(model: Path) -> None:
    os.truncate(model / WEIGHTS, (model / WEIGHTS).stat().st_size - 1)


@attack(WEIGHTS, "belong to no tensor")
def one_byte_more(model: Path) -> None:
    with open(model / WEIGHTS, "ab") as stream:
        stream.write(b"\0")


@attack(WEIGHTS, "not JSON")
def header_of_100_mb_of_zeros(model: Path) -> None:
    # allowed by the format; a hole on disk
    (model / WEIGHTS).write_bytes(struct.pack("<Q", 100_000_000))
    os.truncate(model / WEIGHTS, 100_000_008)


def _without(name: str, *words: str) -> None:
    def spoil(model: Path) -> None:
        _rewrite(model, lambda tensors: tensors.pop(name) and None)

    ATTACKS[f"without_{name}"] = spoil, (WEIGHTS, *words)


_without("model.layers.1.self_attn.k_proj.weight", "layers.1.self_attn.k_proj.weight", "missing")
_without("model.layers.3.mlp.down_proj.weight", "layers.3.mlp.down_proj.weight", "missing")
_without("model.layers.0.input_layernorm.weight", "layers.0.input_layernorm.weight", "missing")
_without("model.embed_tokens.weight", "model.embed_tokens.weight", "missing")
_without("model.norm.weight", "model.norm.weight", "missing")
_without("lm_head.weight", "lm_head.weight", "missing")


@attack("layer 2 has no MLP")
def a_whole_mlp_missing(model: Path) -> None:
    def change(tensors: checkpoints.Weights) -> None:
        for name in [n for n in tensors if n.startswith(("model.layers.2.mlp", "model.layers.2.post"))]:
            del tensors[name]

    _rewrite(model, change)


@attack("layers.1.block_sparse_moe.gate.weight", "no sublayer")
def a_tensor_of_no_sublayer(model: Path) -> None:
    _rewrite(
        model,
        lambda t: t.update({"model.layers.1.block_sparse_moe.gate.weight": ("U8", (1,), b"x")}),
    )


@attack("belongs to no sublayer")
def a_layer_without_number(model: Path) -> None:
    _rewrite(model, lambda t: t.update({"model.layers.x.mlp.up_proj.weight": ("U8", (1,), b"x")}))


@attack("layers.4.self_attn.q_proj.weight", "layer 4")
def a_layer_too_many(model: Path) -> None:
    _rewrite(model, lambda t: t.update({"model.layers.4.self_attn.q_proj.weight": ("U8", (1,), b"x")}))


@attack("o_proj.weight", "[8, 32]", "[16, 16]")
def a_shape_turned(model: Path) -> None:
    def change(tensors: checkpoints.Weights) -> None:
        name = "model.layers.1.self_attn.o_proj.weight"
        dtype, _, data = tensors[name]
        tensors[name] = dtype, (8, 32), data

    _rewrite(model, change)


@attack("is in model-00001-of-00002.safetensors as well")
def one_tensor_in_two_shards(model: Path) -> None:
    tensors = checkpoints.read_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    extra: checkpoints.Weights = {"model.extra": ("U8", (1,), b"x")}
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    checkpoints.write_weights(model / first, tensors | extra)
    checkpoints.write_weights(model / second, extra | {"model.odd": ("U8", (1,), b"y")})
    checkpoints.write_index(model, dict.fromkeys(tensors, first) | {"model.odd": second})


@attack("pytorch_model.bin", "never opened", "from_pretrained(", "save_pretrained(")
def pickled_weights_only(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


@attack("consolidated.00.pth", "never opened")
def original_weights_only(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / "consolidated.00.pth").write_bytes(b"PK")


@attack("no safetensors weights")
def no_weights(model: Path) -> None:
    (model / WEIGHTS).unlink()


@attack("config.json", "not found")
def no_config(model: Path) -> None:
    (model / "config.json").unlink()


@attack("no safetensors weights")
def weights_a_dangling_link(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).symlink_to("gone")


@attack("no safetensors weights")
def weights_a_folder(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).mkdir()


@attack("no safetensors weights")
def weights_a_pipe(model: Path) -> None:
    # opening one would wait for ever
    (model / WEIGHTS).unlink()
    os.mkfifo(model / WEIGHTS)


@attack("Too many levels of symbolic links")
def weights_a_link_to_itself(model: Path) -> None:
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).symlink_to(WEIGHTS)


@attack("surgery.json", "not JSON")
def a_broken_surgery_record(model: Path) -> None:
    (model / "surgery.json").write_text("{")


@attack("surgery.json", "not a JSON object")
def a_surgery_record_of_another_kind(model: Path) -> None:
    (model / "surgery.json").write_text("[]")
