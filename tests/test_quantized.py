"""Packed matrices of quantized checkpoints are cut by name and never changed."""

import json
from pathlib import Path

import checkpoints
import pytest
from checkpoints import Spec, read_weights

import surgeon
from surgeon.errors import SurgeonError

PACKED = {
    # all elements in a column, two to a byte
    "bitsandbytes": ("U8", lambda rows, columns: (rows * columns // 2, 1), "quantization_config"),
    # two to a byte along each row: two dimensions, the second narrower than the width
    "nvfp4": ("U8", lambda rows, columns: (rows, columns // 2), "quantization_config"),
    # eight to a word along each row, under a key of its own
    "mlx": ("U32", lambda rows, columns: (rows, columns // 8), "quantization"),
    "compressed-tensors": ("I32", lambda rows, columns: (rows, columns // 8), "compression_config"),
}


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
