"""One row a model family: what the tensors of its sublayers are called, and their shapes.

A new Llama-like family is a new row. Names and shapes are those of its transformers class.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from surgeon.errors import SurgeonError
from surgeon.plan import Sublayer

Shape = tuple[str, ...]
"""Dimensions by name; each is an attribute of ``structure.Dims``, "mlp_width" excepted, which a
layer may have of its own."""


@dataclass(frozen=True)
class Part:
    """One sublayer: its norm, and its matrices in the order of computation.

    ``groups`` are matrices that read the same input and so must lie side by side in the file (and
    in one shard): a graph can then read q, k, v as one matrix. ``bias`` names the config field that
    says whether its matrices have biases.
    """

    norm: str
    module: str
    groups: tuple[tuple[str, ...], ...]
    shapes: dict[str, Shape]
    bias: str

    @property
    def prefixes(self) -> tuple[str, str]:
        """Everything in a layer under these names belongs to the sublayer, whatever it is."""
        return f"{self.norm}.", f"{self.module}."

    def names(self) -> Iterator[str]:
        """Its matrices, as named inside a layer: "self_attn.q_proj", ..."""
        for group in self.groups:
            for name in group:
                yield f"{self.module}.{name}"


@dataclass(frozen=True)
class Family:
    """The row. ``architecture`` is the plain class; ``tied`` the default of tie_word_embeddings."""

    model_type: str
    architecture: str
    attention: Part
    mlp: Part
    embedding: str = "model.embed_tokens"
    layers: str = "model.layers"
    norm: str = "model.norm"
    head: str = "lm_head"
    tied: bool = False

    def part(self, sublayer: Sublayer) -> Part:
        """The tensor names of one kind of sublayer."""
        return self.attention if sublayer is Sublayer.ATTENTION else self.mlp


LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    attention=Part(
        norm="input_layernorm",
        module="self_attn",
        groups=(("q_proj", "k_proj", "v_proj"), ("o_proj",)),
        shapes={
            "q_proj": ("attention_width", "hidden_size"),
            "k_proj": ("kv_width", "hidden_size"),
            "v_proj": ("kv_width", "hidden_size"),
            "o_proj": ("hidden_size", "attention_width"),
        },
        bias="attention_bias",
    ),
    mlp=Part(
        norm="post_attention_layernorm",
        module="mlp",
        groups=(("gate_proj", "up_proj"), ("down_proj",)),
        shapes={
            "gate_proj": ("mlp_width", "hidden_size"),
            "up_proj": ("mlp_width", "hidden_size"),
            "down_proj": ("hidden_size", "mlp_width"),
        },
        bias="mlp_bias",
    ),
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in (LLAMA,)}

NAS_MODEL_TYPE = "nemotron-nas"
NAS_ARCHITECTURE = "DeciLMForCausalLM"


def family_of(config: dict[str, object], where: str) -> Family:
    """The row for a config.json; a pruned Llama (nemotron-nas dialect) is a Llama.

    Raises SurgeonError, naming the family, when there is no row for it.
    """
    model_type = config.get("model_type")
    architectures = config.get("architectures") or [None]
    if not isinstance(architectures, list):
        raise SurgeonError(f"{where}: architectures is not a list; is this a transformers config?")
    if model_type == NAS_MODEL_TYPE:
        family, expected = LLAMA, NAS_ARCHITECTURE
    elif isinstance(model_type, str) and model_type in FAMILIES:
        family = FAMILIES[model_type]
        expected = family.architecture
    else:
        raise SurgeonError(
            f"{where}: model family {model_type!r} is not known; "
            f"known are {', '.join(sorted(FAMILIES))} and models that surgeon pruned"
        )
    if architectures[0] not in (None, expected):
        raise SurgeonError(
            f"{where}: architecture {architectures[0]!r} of family {model_type!r} is not known; "
            f"only {expected} can be cut"
        )
    return family
