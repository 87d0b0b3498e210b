"""Which runtimes load a model, with what flag, and why not.

What is known of each runtime is data here. Two kinds of knowledge are told apart by ``basis``:
"loaded and compared" runs in the tests; "checked by contract" is what its source reads, held against
the folders that surgeon writes (tests/runtimes/contracts.py). A runtime that would load a model and
compute something else counts as one that does not load it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from surgeon.families import FAMILIES, NAS_MODEL_TYPE, Family
from surgeon.plan import Sublayer
from surgeon.structure import Structure, ceil256


@dataclass(frozen=True)
class Runtime:
    """One runtime's verdict: ``note`` is the flag it needs, or the reason why it does not load."""

    name: str
    loads: bool
    note: str
    basis: str


ALL = frozenset(FAMILIES)
_OLD_THETAS = {name: family.rope_theta for name, family in FAMILIES.items()}
"""What transformers 4 takes where config.json has no rope_theta, by family."""

_METHODS = frozenset({"awq", "compressed-tensors", "fp8", "gptq"})


@dataclass(frozen=True)
class _Reader:
    """A runtime, by what it reads of config.json and of the tensors.

    ``families`` are those whose whole models it knows, ``windows`` those whose sliding windows it is
    known to keep to. ``thetas`` says which rope base it takes where there is no rope_theta, as with the
    fields of transformers 5 alone; ``ties`` are those whose embedding it takes for the head where there
    is no tie_word_embeddings; ``ropes`` are the kinds of rope that were compared, where it was run.
    Whole models of the families ``fixed_heads`` have heads of hidden_size / their number there, and
    those of ``without_biases`` have no places for any; ``whole_mlp_biases`` is about whole models, too.
    The rest is about nemotron-nas: whether it needs attention in the first block, what there is to say
    of a model without any, whether it reads head_dim, has places for biases, and the ``flag`` it needs.
    """

    name: str
    basis: str
    flag: str = ""
    families: frozenset[str] = ALL
    windows: frozenset[str] = frozenset()
    thetas: Mapping[str, float] = field(default_factory=dict)
    ties: frozenset[str] = frozenset()
    quantized: frozenset[str] = frozenset()
    first_attention: bool = False
    no_attention: str = "needs attention somewhere"
    head_dim: bool = True
    attention_biases: bool = True
    mlp_biases: bool = True
    whole_mlp_biases: bool = True
    without_biases: frozenset[str] = frozenset()
    ropes: frozenset[str] | None = None
    fixed_heads: frozenset[str] = frozenset()

    def verdict(self, structure: Structure, config: dict[str, Any]) -> Runtime:
        """The first reason against it, or the flag."""
        reason = next(self._reasons(structure, config), None)
        flag = "" if structure.plain else self.flag
        return Runtime(self.name, reason is None, reason or flag, self.basis)

    def _reasons(self, structure: Structure, config: dict[str, Any]) -> Iterator[str]:
        """What is in the way of the family, of its dialect, of the weights."""
        family = structure.family
        if structure.plain and family.model_type not in self.families:
            yield f"has no {family.architecture}"
        if structure.dialect == family.dialect:
            way = "with --portable" if structure.beyond_llama is None else "whole blocks"
            yield f"does not know {family.dialect}, for {structure.beyond_nas}; cut {way}"
        windows = {pattern.window for pattern in structure.attention_patterns} - {None}
        if windows and family.model_type not in self.windows:
            yield "is not known to keep to the sliding windows of this family"
        if structure.quantized and _quant_method(config) not in self.quantized:
            yield "may not read these quantized weights; it was not looked into"
        theta = self.thetas.get(family.model_type)
        lost = None if theta is None else _lost_rope(config, family, theta)
        if lost is not None:
            yield lost
        if self.ropes is not None and (kind := _rope_kind(config)) not in self.ropes:
            yield f"may compute rope of type {kind} in another way; it was not looked into"
        dims = structure.dims
        fixed = structure.plain and family.model_type in self.fixed_heads
        if fixed and dims.attention_width != dims.hidden_size:
            yield f"reads no head_dim of this family, and these heads of {dims.head_dim} need it"
        unsaid = structure.plain and "tie_word_embeddings" not in config
        if unsaid and not structure.tied and family.model_type in self.ties:
            yield (
                "would take the embedding for the head without a word: config.json has no "
                "tie_word_embeddings; add it as false"
            )
        mlp_biases = self.whole_mlp_biases if structure.plain else self.mlp_biases
        if not mlp_biases and structure.biases & family.mlp.shapes.keys():
            yield "would leave out the MLP's biases without a word"
        if structure.plain and structure.biases and family.model_type in self.without_biases:
            yield "would leave out the biases of this family without a word"
        if structure.dialect == NAS_MODEL_TYPE:
            yield from self._block_reasons(structure)

    def _block_reasons(self, structure: Structure) -> Iterator[str]:
        """What is in the way of blocks that lack a sublayer."""
        dims, width = structure.dims, structure.dims.intermediate_size
        if width != ceil256(width):
            yield f"reads MLP widths in steps of 256, this one is {width}; cut with --portable"
        if not self.head_dim and dims.attention_width != dims.hidden_size:
            yield f"has no head_dim in this dialect, and these heads of {dims.head_dim} need it"
        if not self.attention_biases and structure.biases & structure.family.attention.shapes.keys():
            yield "would leave out the attention's biases without a word"
        if not structure.num_attentions:
            yield self.no_attention
        if self.first_attention and not structure.has(0, Sublayer.ATTENTION):
            yield "needs the first block's attention, which is gone; keep layer 0"


_TRANSFORMERS = "trust_remote_code=True, or import surgeon"
_UNKNOWN = "may not run without any attention; it was not looked into"
_CONTRACT = "checked by contract with {}, not run"

_READERS = (
    _Reader(
        "vLLM",
        _CONTRACT.format("0.33.0"),
        flag="--trust-remote-code",
        windows=frozenset({"mistral", "qwen3"}),
        quantized=_METHODS,
        first_attention=True,
    ),
    _Reader(
        "SGLang",
        _CONTRACT.format("0.5.23"),
        flag="--trust-remote-code",
        quantized=_METHODS,
        mlp_biases=False,
        whole_mlp_biases=False,
        without_biases=frozenset({"granite"}),
    ),
    _Reader(
        "TensorRT-LLM",
        _CONTRACT.format("commit 0193dbd"),
        flag="--trust_remote_code",
        families=frozenset({"llama", "mistral", "qwen2", "qwen3"}),
        thetas=_OLD_THETAS,
        no_attention=_UNKNOWN,
        attention_biases=False,
        mlp_biases=False,
    ),
    _Reader(
        "MLX-LM",
        "loaded and compared: 0.32 on CPU",
        thetas={
            **dict.fromkeys(("llama", "mistral", "smollm3"), 10000.0),
            "qwen2": 1000000.0,
            "granite": 0.0,
        },
        ties=ALL - {"qwen3"},
        ropes=frozenset({"default", "linear", "llama3"}),
        fixed_heads=frozenset({"qwen2", "granite"}),
        head_dim=False,
    ),
    _Reader(
        "exllamav3",
        _CONTRACT.format("1.6.5"),
        families=ALL - {"granite"},
        no_attention=_UNKNOWN,
    ),
)


def runtimes(structure: Structure, config: dict[str, Any]) -> tuple[Runtime, ...]:
    """The verdict of every known runtime, in the order of the documentation.

    ``config`` is the config.json of the same model.
    """
    family = structure.family
    code = "" if structure.plain else _TRANSFORMERS
    foreign = None
    if structure.quantized and _quant_method(config) is None:
        foreign = "reads quantized weights only where config.json names their quant_method"
    lost = foreign or _lost_rope(config, family, family.rope_theta)
    return (
        Runtime("transformers 5", foreign is None, foreign or code, "loaded and compared: 5.23"),
        Runtime("transformers 4", lost is None, lost or code, "loaded and compared: 4.57.6"),
        *_exports(structure, config),
        *(reader.verdict(structure, config) for reader in _READERS),
    )


def _exports(structure: Structure, config: dict[str, Any]) -> tuple[Runtime, ...]:
    """The runtimes that surgeon writes a form of its own for."""
    graph = unsupported_by_onnxruntime(structure)
    needs = "surgeon export onnx"
    if any(pattern.window for pattern in structure.attention_patterns):
        needs += "; onnxruntime 1.24 or newer, for its windows"
    file = unsupported_by_llama_cpp(structure, config)
    return (
        Runtime(
            "onnxruntime",
            graph is None,
            graph or needs,
            "loaded and compared: 1.32 on CPU, 1.31 on CUDA",
        ),
        Runtime(
            "onnxruntime-genai",
            graph is None,
            graph or needs,
            "loaded and compared: 0.18 on CPU",
        ),
        Runtime(
            "llama.cpp",
            file is None,
            file or "surgeon export gguf",
            "loaded and compared: xllamacpp 2026.10",
        ),
    )


def _lost_rope(config: dict[str, Any], family: Family, theta: float) -> str | None:
    """What a reader of rope_theta and rope_scaling alone gets wrong, or None.

    It defaults to the base ``theta``, and says so itself if that is 0. ``config`` is the file as it is:
    what the family's class has by default stands in none.
    """
    rope = config.get("rope_parameters")
    rope = rope if isinstance(rope, dict) else {}
    scaled = rope.get("rope_type", "default") != "default" and not config.get("rope_scaling")
    if "rope_theta" in config:
        does = "would leave out the scaling of rope without a word" if scaled else None
    elif scaled or rope.get("rope_theta", family.rope_theta) != theta:
        does = f"would take the rope base {theta:.0f} without a word" if theta else "needs rope_theta"
    else:
        does = None
    return does and f"{does}: config.json has no rope fields of transformers 4; add those"


def _quant_method(config: dict[str, Any]) -> str | None:
    """How the weights are quantized, in the word of transformers; MLX's own settings have none."""
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    return method if isinstance(method, str) else None


def _rope_kind(config: dict[str, Any]) -> str:
    """The kind of scaling, in either style of config.json."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    scaling = scaling if isinstance(scaling, dict) else {}
    return str(scaling.get("rope_type", scaling.get("type", "default")))


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
        return "gets no quantized weights from surgeon; export the 16-bit checkpoint with --dtype q8_0"
    if structure.beyond_llama is not None:
        return (
            f"gets no {structure.beyond_llama} from surgeon; "
            "its convert_hf_to_gguf.py knows whole models of this family"
        )
    if not structure.num_attentions:
        return "needs at least one block with attention"
    for layer in range(structure.num_layers):
        if not structure.has(layer, Sublayer.MLP):
            return (
                f"would silently skip the attention of block {layer}, which has no MLP; "
                "cut with --portable"
            )
    act = config.get("hidden_act", "silu")
    if act not in ("silu", "swish"):
        return f"gets no hidden_act {act!r} from surgeon, only silu"
    return None
