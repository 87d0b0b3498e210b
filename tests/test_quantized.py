"""Packed matrices of quantized checkpoints are cut by name and never changed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from checkpoints import Spec, read_weights

import surgeon
from surgeon.errors import SurgeonError

Parts = dict[str, tuple[str, tuple[int, ...]]]
"""What a quantizer makes of one matrix: dtype and shape by the last part of the name."""

PACKED = {
    # all elements in a column, two to a byte
    "bitsandbytes": ("U8", lambda rows, columns: (rows * columns // 2, 1), "quantization_config"),
    # two to a byte along each row: two dimensions, the second narrower than the width
    "nvfp4": ("U8", lambda rows, columns: (rows, columns // 2), "quantization_config"),
    # eight to a word along each row, under a key of its own
    "mlx": ("U32", lambda rows, columns: (rows, columns // 8), "quantization"),
    "compressed-tensors": ("I32", lambda rows, columns: (rows, columns // 8), "compression_config"),
}


def gptq(rows: int, columns: int) -> Parts:
    """Eight inputs to a word down each column, by AutoGPTQ and GPTQModel; groups of 8 inputs."""
    return {
        "qweight": ("I32", (columns // 8, rows)),
        "qzeros": ("I32", (columns // 8, rows // 8)),
        "scales": ("F16", (columns // 8, rows)),
        "g_idx": ("I32", (columns,)),
    }


def awq(rows: int, columns: int) -> Parts:
    """Eight outputs to a word along each row, by AutoAWQ; the matrix is transposed."""
    return {
        "qweight": ("I32", (columns, rows // 8)),
        "qzeros": ("I32", (columns // 8, rows // 8)),
        "scales": ("F16", (columns // 8, rows)),
    }


def fp8(rows: int, columns: int) -> Parts:
    """A scale for each block of 8 x 8, as the big FP8 models have it for 128 x 128."""
    return {
        "weight": ("F8_E4M3", (rows, columns)),
        "weight_scale_inv": ("F32", (rows // 8, columns // 8)),
    }


def fp8_rows(rows: int, columns: int) -> Parts:
    """A scale for each row, and one for activations: compressed-tensors' float-quantized."""
    return {
        "weight": ("F8_E4M3", (rows, columns)),
        "weight_scale": ("BF16", (rows, 1)),
        "input_scale": ("BF16", (1,)),
    }


def pack_quantized(rows: int, columns: int) -> Parts:
    """compressed-tensors' 4 bits with zero points and activation order."""
    return {
        "weight_packed": ("I32", (rows, columns // 8)),
        "weight_scale": ("BF16", (rows, columns // 8)),
        "weight_zero_point": ("I32", (rows // 8, columns // 8)),
        "weight_g_idx": ("I32", (columns,)),
        "weight_shape": ("I64", (2,)),
    }


LAYER, LATER = "model.layers.1.mlp.down_proj", "model.layers.2.self_attn.o_proj"
"""Named in settings: one in the layer that a cut of blocks takes away, one behind it."""

LAYOUTS: dict[str, tuple[Callable[[int, int], Parts], dict[str, Any]]] = {
    "gptq": (
        gptq,
        {"bits": 4, "group_size": 8, "dynamic": {f"-:{LAYER}": {}, f"+:{LATER}": {"bits": 8}}},
    ),
    "awq": (
        awq,
        {"bits": 4, "version": "gemm", "modules_to_not_convert": ["lm_head", LAYER, LATER]},
    ),
    "fp8": (
        fp8,
        {"weight_block_size": [8, 8], "modules_to_not_convert": ["lm_head", LAYER, LATER]},
    ),
    "compressed-tensors": (
        pack_quantized,
        {
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear", LAYER, LATER], "weights": {}}},
            "ignore": ["lm_head"],
        },
    ),
    "float-quantized": (fp8_rows, {"format": "float-quantized", "ignore": [LAYER, LATER]}),
}


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("drop", ["attn", "mlp", "block"])
def test_real_layouts(drop: str, kind: str, family: str, tmp_path: Path) -> None:
    parts_of, settings = LAYOUTS[kind]
    model = laid_out(tmp_path / "model", family, parts_of, {"quant_method": kind, **settings})
    surgeon.prune(model, tmp_path / "out", drop=drop, layers="1")
    gone = {"attn": {"attn": [1]}, "mlp": {"mlp": [1]}, "block": {"attn": [1], "mlp": [1]}}[drop]
    assert read_weights(tmp_path / "out") == checkpoints.expected(read_weights(model), 4, **gone)
    assert surgeon.verify(tmp_path / "out", model).ok
    config = checkpoints.read_json(tmp_path / "out" / "config.json")
    text = json.dumps(config["quantization_config"])
    later = LATER.replace("2", "1") if drop == "block" else LATER
    assert (LAYER in text) == (drop == "attn")
    assert text.count("model.layers.") == 1 + (drop == "attn")
    assert later in text
    assert config["quantization_config"]["quant_method"] == kind
    dialect = family if drop == "block" else {"llama": "nemotron-nas"}.get(family, f"surgeon-{family}")
    assert config["model_type"] == dialect


def laid_out(
    folder: Path, family: str, parts_of: Callable[[int, int], Parts], settings: dict[str, Any]
) -> Path:
    """A checkpoint whose matrices in the layers are stored as a quantizer stores them."""
    config = {
        "model_type": family,
        "architectures": [{"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[family]],
        "quantization_config": settings,
    }
    checkpoints.make(folder, Spec(config=config))
    tensors: checkpoints.Weights = {}
    for name, (dtype, shape, data) in checkpoints.read_weights(folder).items():
        module, _, _ = name.rpartition(".")
        if not module.endswith("_proj"):
            tensors[name] = (dtype, shape, data)
            continue
        for part, (kind, size) in parts_of(*shape).items():
            raw = checkpoints.content(f"{module}.{part}", checkpoints.size_of(kind, size))
            tensors[f"{module}.{part}"] = (kind, size, raw)
    if family == "qwen3":
        for layer in range(4):
            for norm in ("q_norm", "k_norm"):
                name = f"model.layers.{layer}.self_attn.{norm}.weight"
                tensors[name] = ("BF16", (4,), checkpoints.content(name, 8))
    checkpoints.write_weights(folder / "model.safetensors", tensors)
    return folder


def test_the_settings_of_modelopt_follow(tmp_path: Path) -> None:
    settings = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head", LAYER, LATER]}}
    files = {"hf_quant_config.json": json.dumps(settings).encode()}
    model = checkpoints.make(tmp_path / "model", files=files)
    surgeon.prune(model, tmp_path / "out", drop="block", layers="1")
    found = checkpoints.read_json(tmp_path / "out" / "hf_quant_config.json")
    assert found["quantization"]["exclude_modules"] == ["lm_head", LATER.replace("2", "1")]


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("drop", ["attn", "mlp", "block"])
def test_packed_matrices_stay_as_they_are(kind: str, drop: str, tmp_path: Path) -> None:
    model = packed(tmp_path / "model", kind)
    surgeon.prune(model, tmp_path / "out", drop=drop, layers="1")
    gone = {"attn": {"attn": [1]}, "mlp": {"mlp": [1]}, "block": {"attn": [1], "mlp": [1]}}[drop]
    assert read_weights(tmp_path / "out") == checkpoints.expected(read_weights(model), 4, **gone)
    assert surgeon.verify(tmp_path / "out", model).ok
    assert surgeon.inspect(tmp_path / "out").quantized


@pytest.mark.parametrize("kind", PACKED)
def test_padding_packed_matrices_is_refused(kind: str, tmp_path: Path) -> None:
    model = packed(tmp_path / "model", kind, mlp=32)
    with pytest.raises(SurgeonError, match="quantized"):
        surgeon.prune(model, tmp_path / "out", drop="mlp", layers="1", portable=True)


def test_growth_by_zeros_is_no_kept_tensor(tmp_path: Path) -> None:
    """Zeros behind a tensor's own bytes are only right where a portable cut put them."""
    model = checkpoints.make(tmp_path / "model")
    out = tmp_path / "out"
    surgeon.prune(model, out, layers="1")
    path = out / "model.safetensors"
    tensors = checkpoints.read_file(path)
    name = "model.layers.0.mlp.gate_proj.weight"
    dtype, (rows, columns), data = tensors[name]
    tensors[name] = (dtype, (rows + 1, columns), data + bytes(len(data) // rows))
    checkpoints.write_weights(path, tensors, {"format": "pt"})
    # its config.json does not say so, hence not even a checkpoint
    with pytest.raises(SurgeonError, match="has shape"):
        surgeon.verify(out, model)
    # a leftover has no shape that a config.json could promise
    tensors[name] = (dtype, (rows, columns), data)
    extra = "model.layers.0.self_attn.rotary_emb.inv_freq"
    model = checkpoints.make(tmp_path / "second", inv_freq=True)
    surgeon.prune(model, tmp_path / "other", layers="1")
    path = tmp_path / "other" / "model.safetensors"
    tensors = checkpoints.read_file(path)
    dtype, (size,), data = tensors[extra]
    tensors[extra] = (dtype, (2 * size,), data + bytes(len(data)))
    checkpoints.write_weights(path, tensors, {"format": "pt"})
    assert any(extra in line for line in surgeon.verify(tmp_path / "other", model).differences)


def test_settings_in_a_file_of_their_own_follow(tmp_path: Path) -> None:
    settings = {"bits": 4, "dynamic": {r"-:model\.layers\.3\.mlp\..*": {}, "lm_head": {}}}
    files = {"quantize_config.json": json.dumps(settings).encode()}
    model = checkpoints.make(tmp_path / "model", gptq=True, files=files)
    surgeon.prune(model, tmp_path / "out", drop="block", layers="1")
    found = checkpoints.read_json(tmp_path / "out" / "quantize_config.json")
    assert found == {"bits": 4, "dynamic": {r"-:model\.layers\.2\.mlp\..*": {}, "lm_head": {}}}
    assert surgeon.verify(tmp_path / "out", model).ok


def packed(folder: Path, kind: str, **changes: int) -> Path:
    """A checkpoint whose matrices in the layers are packed as ``kind`` packs them."""
    dtype, shape_of, key = PACKED[kind]
    spec = Spec(hidden=16, **changes)
    checkpoints.make(folder, spec)
    path = folder / "model.safetensors"
    tensors = checkpoints.read_file(path)
    for name, (_, shape, _) in tensors.items():
        if "_proj.weight" in name:
            new = shape_of(*shape)
            data = checkpoints.content(name, checkpoints.size_of(dtype, new))
            tensors[name] = (dtype, new, data)
    checkpoints.write_weights(path, tensors, {"format": "pt"})
    config = checkpoints.read_json(folder / "config.json")
    config[key] = {"quant_method": kind}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
