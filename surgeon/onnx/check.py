"""Does a graph compute what its checkpoint does? Compared with transformers in float32."""

import os
from dataclasses import dataclass
from typing import Any

from surgeon.onnx.ops import Graph
from surgeon.onnx.weights import quantize_rows
from surgeon.runtime.session import Loaded, load
from surgeon.runtime.with_transformers import load_model

BOUNDS = {1: 1e-4, 10: 2e-2, 16: 1e-1}
"""Largest difference allowed, as a share of the largest logit, by onnx element type: float32, float16,
bfloat16."""

_PROMPT, _STEPS = 24, 4


@dataclass(frozen=True)
class CheckReport:
    """``difference`` is the largest of any logit, ``relative`` its share of the largest logit."""

    graph: str
    device: str
    prompt_tokens: int
    decode_steps: int
    difference: float
    relative: float
    bound: float

    @property
    def ok(self) -> bool:
        """Whether the difference is within the bound."""
        return self.relative <= self.bound


def check_onnx(model: str | os.PathLike[str], device: str = "auto") -> CheckReport:
    """Runs a prompt and four cached decode steps through the graph beside ``model`` and through
    transformers, and compares all logits. The whole model is loaded twice, once in float32.

    Weights of 4 bits are compared with the same rounded weights, and without rounding activations.
    Raises SurgeonError when either cannot be loaded.
    """
    loaded = load(model, device, exact=True)
    reference, _ = load_model(str(loaded.folder), "cpu")
    import numpy as np
    import torch

    if loaded.quantized:
        _round_weights(reference, loaded)
    vocabulary = loaded.checkpoint.structure.dims.vocab_size
    ids = np.random.default_rng(0).integers(0, vocabulary, (1, _PROMPT + _STEPS))
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids)).logits.numpy()
    got = run_graph(loaded, ids, _PROMPT)
    if loaded.last_logits_only:
        expected = expected[:, _PROMPT - 1 :]
    difference = float(np.abs(got - expected).max())
    return CheckReport(
        graph=str(loaded.folder / "model.onnx"),
        device=loaded.device,
        prompt_tokens=_PROMPT,
        decode_steps=_STEPS,
        difference=difference,
        relative=difference / float(np.abs(expected).max()),
        bound=BOUNDS[loaded.element],
    )


def run_graph(loaded: Loaded, ids: Any, prompt: int) -> Any:
    """Float32 logits [batch, positions, vocabulary] of ids [batch, length]: the first ``prompt`` at
    once, the others one by one over the cache."""
    import numpy as np
    import onnxruntime as ort

    size, length = ids.shape
    dims = loaded.checkpoint.structure.dims
    shape = (size, dims.num_key_value_heads, length, dims.head_dim)
    make = ort.OrtValue.ortvalue_from_shape_and_type
    caches = {past: make(shape, loaded.element, loaded.device, 0) for past, _ in loaded.caches}
    parts = []
    for start, end in [(0, prompt), *((i, i + 1) for i in range(prompt, length))]:
        run = loaded.session.io_binding()
        run.bind_cpu_input("input_ids", np.ascontiguousarray(ids[:, start:end]))
        run.bind_cpu_input("attention_mask", np.ones((size, end), np.int64))
        for past, present in loaded.caches:
            run.bind_ortvalue_input(past, caches[past])
            run.bind_ortvalue_output(present, caches[past])
        run.bind_output("logits", "cpu")
        loaded.session.run_with_iobinding(run)
        parts.append(to_float(run.get_outputs()[-1]))  # in the order they were bound
    return np.concatenate(parts, axis=1)


def to_float(value: Any) -> Any:
    """An OrtValue on the CPU as a float32 array."""
    import numpy as np
    import onnxruntime as ort

    if value.element_type() != 16:
        return value.numpy().astype(np.float32)
    graph = Graph()  # numpy has no bfloat16, so onnxruntime converts
    shape = list(value.shape())
    graph.input("x", 16, shape)
    graph.output("y", 1, shape)
    graph.node("Cast", ["x"], "y", to=1)
    text = graph.model("to_float", {}).SerializeToString()
    session = ort.InferenceSession(text, providers=["CPUExecutionProvider"])
    return session.run_with_ort_values(["y"], {"x": value})[0].numpy()


def _round_weights(reference: Any, loaded: Loaded) -> None:
    """Gives the reference the weights that the graph has after quantization."""
    import numpy as np
    import torch

    def rounded(weight: Any, bits: int) -> Any:
        quants, scales = quantize_rows(weight.detach().numpy(), bits, 32)
        values = np.stack([quants & 15, quants >> 4], -1) if bits == 4 else quants
        values = values.reshape(*quants.shape[:2], 32).astype(np.float32) - 2 ** (bits - 1)
        values = (values * scales[..., None]).reshape(weight.shape[0], -1)[:, : weight.shape[1]]
        return torch.nn.Parameter(torch.from_numpy(values))

    layers = f"{loaded.checkpoint.family.layers}."
    for name, module in reference.named_modules():
        if name.startswith(layers) and isinstance(module, torch.nn.Linear):
            module.weight = rounded(module.weight, 4)
    reference.lm_head.weight = rounded(reference.lm_head.weight, 8)
