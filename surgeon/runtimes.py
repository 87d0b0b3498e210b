"""Which runtimes load a model of a given structure, with what flag, and why not.

What is known of each runtime is in ``_ROWS``: "checked" stands for a run on small models, "read" for
its source code. A runtime that would compute something else counts as one that does not load.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from surgeon.plan import Sublayer
from surgeon.structure import Structure, ceil256


@dataclass(frozen=True)
class Runtime:
    """One runtime's verdict: ``note`` is the flag it needs, or the reason why it does not load."""

    name: str
    loads: bool
    note: str
    basis: str


def runtimes(structure: Structure) -> tuple[Runtime, ...]:
    """The verdict of every known runtime, in the order of the documentation."""
    verdicts = []
    for name, plain_note, nas_note, basis, why_not in _ROWS:
        reason = why_not(structure)
        note = plain_note if structure.plain else nas_note
        verdicts.append(Runtime(name, reason is None, reason or note, basis))
    return tuple(verdicts)


def _width(structure: Structure) -> str | None:
    width = structure.dims.intermediate_size
    if not structure.plain and width != ceil256(width):
        return f"reads MLP widths in steps of 256, this one is {width}; cut with --portable"
    return None


def _first_attention(structure: Structure) -> str | None:
    if not structure.has(0, Sublayer.ATTENTION):
        return "needs the first block's attention, which is gone; keep layer 0"
    return None


def _any(structure: Structure) -> str | None:
    return None


def unsupported_by_onnxruntime(structure: Structure) -> str | None:
    """Why there can be no graph of such a model, or None."""
    if structure.quantized:
        return "quantized weights cannot be exported; export the 16-bit checkpoint with --int4"
    if structure.dims.head_dim % 16:
        return f"its attention needs heads of a multiple of 16, these are of {structure.dims.head_dim}"
    return None


def unsupported_by_llama_cpp(structure: Structure, config: dict[str, Any]) -> str | None:
    """Why there can be no GGUF file of such a model, or None."""
    if structure.quantized:
        return "quantized weights cannot be exported; export the 16-bit checkpoint with --dtype q8_0"
    if structure.beyond_llama is not None:
        return (
            f"it has {structure.beyond_llama}, which surgeon's GGUF files cannot say; "
            "llama.cpp's convert_hf_to_gguf.py knows whole models of this family"
        )
    if not structure.num_attentions:
        return "llama.cpp needs at least one block with attention"
    for layer in range(structure.num_layers):
        if not structure.has(layer, Sublayer.MLP):
            return (
                f"llama.cpp would silently skip the attention of block {layer}, which has no MLP; "
                "cut with --portable"
            )
    act = config.get("hidden_act", "silu")
    if act not in ("silu", "swish"):
        return f"hidden_act {act!r} is not known; only silu is"
    return None


def _vllm(structure: Structure) -> str | None:
    return _width(structure) or _first_attention(structure)


def _tensorrt(structure: Structure) -> str | None:
    if structure.biases and not structure.plain:
        return "reads no biases in this dialect"
    return _width(structure)


def _llama_cpp(structure: Structure) -> str | None:
    for layer in range(structure.num_layers):
        if not structure.has(layer, Sublayer.MLP):
            return (
                f"would silently skip the attention of block {layer}, which has no MLP; "
                "cut with --portable"
            )
    return _width(structure) or _first_attention(structure)


_Row = tuple[str, str, str, str, Callable[[Structure], str | None]]
_TRUST = "trust_remote_code=True, or import surgeon"
_FLAG = "--trust-remote-code"
_EXPORT = "surgeon export onnx"
_ROWS: tuple[_Row, ...] = (
    ("transformers", "", _TRUST, "checked with 4.57.6 and 5.23", _any),
    (
        "onnxruntime",
        _EXPORT,
        _EXPORT,
        "checked with 1.32 on CPU and 1.31 on CUDA",
        unsupported_by_onnxruntime,
    ),
    ("onnxruntime-genai", _EXPORT, _EXPORT, "checked with 0.18 on CPU", unsupported_by_onnxruntime),
    ("vLLM", "", _FLAG, "read in 0.33", _vllm),
    ("SGLang", "", _FLAG, "read in 0.5.23", _width),
    ("TensorRT-LLM", "", "", "read", _tensorrt),
    ("MLX-LM", "", "", "checked with 0.32 on CPU", _width),
    ("exllamav3", "", "", "read", _width),
    ("llama.cpp", "", "convert_hf_to_gguf.py", "checked", _llama_cpp),
)
