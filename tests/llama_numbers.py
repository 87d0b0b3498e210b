"""Small Llamas made with numpy alone: the tensors of a checkpoints.Spec, with numbers that run."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
from checkpoints import Spec, Weights

import surgeon

SAMPLE = Path(surgeon.__file__).parent / "sample"

SMALL = Spec(
    layers=3, hidden=48, heads=6, kv_heads=2, head_dim=16, mlp=93, vocab=2048, dtype="F32", style=5
)
"""An odd MLP, and a vocabulary for the sample's tokenizer."""


CONFIG_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


def encode(values: np.ndarray, dtype: str) -> bytes:
    """Numbers as a safetensors dtype; bfloat16 by truncation, so that no rounding rule comes in."""
    if dtype == "BF16":
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return values.astype({"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).tobytes()


def decode(data: bytes, dtype: str) -> np.ndarray:
    """Back to float32."""
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]).astype("<f4")


def weights(spec: Spec, seed: int = 0) -> Weights:
    """Random numbers; norms are not all ones, which would hide mixed up ones."""
    random = np.random.default_rng(seed)
    out: Weights = {}
    for name, (dtype, shape) in checkpoints.shapes(spec).items():
        noise = random.standard_normal(shape)
        values = 1 + 0.3 * noise if "norm" in name else 0.2 * noise
        out[name] = (dtype, shape, encode(values, dtype))
    return out


def make(folder: Path, spec: Spec = SMALL, seed: int = 0, **changes: Any) -> Path:
    """Writes one, with the sample's tokenizer."""
    spec = dataclasses.replace(spec, **changes)
    config = {"bos_token_id": 1, "eos_token_id": 2, "dtype": CONFIG_DTYPES[spec.dtype]}
    spec = dataclasses.replace(spec, config={**config, **spec.config})
    checkpoints.make(folder, spec)
    put(folder, weights(spec, seed), spec)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(SAMPLE / file, folder / file)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    return folder


def put(folder: Path, tensors: Weights, spec: Spec) -> None:
    """Writes weights in the place of others."""
    files = checkpoints.split(spec, {name: len(data) for name, (_, _, data) in tensors.items()})
    for file, names in files.items():
        checkpoints.write_weights(folder / file, {name: tensors[name] for name in names})


def ranges(folder: Path) -> dict[str, tuple[str, int, int]]:
    """Initializers of the graph that lie in files: location, offset and length."""
    import onnx

    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    out = {}
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries.keys() == {"location", "offset", "length"}
            out[tensor.name] = (entries["location"], int(entries["offset"]), int(entries["length"]))
    return out


def bytes_of(folder: Path, name: str) -> bytes:
    """The bytes that an initializer stands for, read as onnxruntime would."""
    location, offset, length = ranges(folder)[name]
    with open(folder / location, "rb") as stream:
        stream.seek(offset)
        data = stream.read(length)
    assert len(data) == length
    return data


def continuation(network: Any, prompt: list[int], count: int, end: int = 2) -> list[int]:
    """transformers' greedy continuation, with the end token where it came."""
    import torch

    ids = torch.tensor([prompt])
    out = network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=end,
        eos_token_id=end,
        do_sample=False,
        max_new_tokens=count,
    )
    return [int(token) for token in out[0, len(prompt) :]]


def rows(steps: list[list[int | None]]) -> list[list[int]]:
    """The tokens of each row of ``generate_ids``."""
    return [[token for token in row if token is not None] for row in zip(*steps, strict=True)]
