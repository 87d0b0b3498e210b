"""What a config.json says about the shape of the model, checked once and typed."""

from dataclasses import dataclass, replace
from typing import Any, Self

from surgeon.errors import SurgeonError
from surgeon.families import DIALECTS, LLAMA, NAS_MODEL_TYPE, Family
from surgeon.patterns import Pattern, read_patterns
from surgeon.plan import Plan, Site, Sublayer

QUANTIZATION_KEYS = ("quantization_config", "quantization", "compression_config")
"""Where a config.json says that its weights are quantized: transformers, MLX, compressed-tensors."""

MOST_LAYERS = 9999
"""No model comes near it; more would only be a way to fill the memory."""

STUB_WIDTH = 256
"""The width of the zero MLP that a portable cut gives to a block without one."""


@dataclass(frozen=True)
class Dims:
    """The widths that all layers share, in elements."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int

    @property
    def attention_width(self) -> int:
        """Rows of q_proj."""
        return self.num_attention_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Rows of k_proj and of v_proj."""
        return self.num_key_value_heads * self.head_dim


@dataclass(frozen=True)
class Structure:
    """The layers of a checkpoint: which sublayers each has, and its MLP's width.

    ``mlp_widths`` has one entry a layer; only a portable cut makes them differ (zero stubs).
    ``patterns`` has one too, which says nothing where attention is absent. ``biases`` are the names of
    matrices with a bias: "q_proj", ...
    """

    family: Family
    dims: Dims
    num_layers: int
    absent: frozenset[Site]
    mlp_widths: tuple[int, ...]
    tied: bool
    biases: frozenset[str]
    patterns: tuple[Pattern, ...]
    quantized: bool
    dtype: str | None

    def has(self, layer: int, sublayer: Sublayer) -> bool:
        """Whether the layer has that sublayer."""
        return (layer, sublayer) not in self.absent

    @property
    def num_attentions(self) -> int:
        """Layers with attention: each needs a KV cache."""
        return sum(self.has(layer, Sublayer.ATTENTION) for layer in range(self.num_layers))

    @property
    def plain(self) -> bool:
        """Whether the family's own class can express it; else one of the other dialects must."""
        return not self.absent and set(self.mlp_widths) == {self.dims.intermediate_size}

    @property
    def attention_patterns(self) -> tuple[Pattern, ...]:
        """What the attentions that are there see, by the number of their KV cache."""
        return tuple(
            pattern
            for layer, pattern in enumerate(self.patterns)
            if self.has(layer, Sublayer.ATTENTION)
        )

    @property
    def beyond_llama(self) -> str | None:
        """What this model computes that no Llama does, biases aside, or None."""
        if self.family.attention.head_norms:
            return "norms of q and k"
        if self.family.multipliers is not None:
            return "multipliers of embeddings, residuals and logits"
        if any(pattern.window is not None for pattern in self.attention_patterns):
            return "sliding windows"
        if not all(pattern.rotary for pattern in self.attention_patterns):
            return "attention without rope"
        return None

    @property
    def beyond_nas(self) -> str | None:
        """What of this model the nemotron-nas dialect has no words for, or None.

        Its words are those of a Llama: all of a sublayer's matrices have biases, or none.
        """
        if self.beyond_llama is not None:
            return self.beyond_llama
        for part in (self.family.attention, self.family.mlp):
            if 0 < len(self.biases & part.shapes.keys()) < len(part.shapes):
                return f"biases of {', '.join(sorted(self.biases & part.shapes.keys()))} alone"
        return None

    @property
    def dialect(self) -> str:
        """The model_type of its config.json: the family's own where every block is whole, else
        nemotron-nas, else a dialect of the family's own, "surgeon-FAMILY"."""
        if self.plain:
            return self.family.model_type
        return NAS_MODEL_TYPE if self.beyond_nas is None else self.family.dialect

    def cut(self, plan: Plan, portable: bool = False) -> Self:
        """The structure after a plan.

        ``portable`` gives blocks without an MLP a zero one of width 256, pads MLP widths to multiples
        of 256, and gives zero biases to matrices whose neighbours have some, where the result needs
        the dialect whose other readers insist on all that. Raises SurgeonError where that dialect
        cannot express the model, or would mean to pad quantized matrices.
        """
        blocks = plan.blocks
        own = self.dims.intermediate_size
        widths = [own if b.mlp is None else self.mlp_widths[b.mlp] for b in blocks]
        bare = replace(
            self,
            num_layers=len(blocks),
            absent=frozenset(
                (i, sub) for i, b in enumerate(blocks) for sub in Sublayer if b.source(sub) is None
            ),
            mlp_widths=tuple(widths),
            patterns=tuple(
                Pattern() if b.attention is None else self.patterns[b.attention] for b in blocks
            ),
        )
        if not portable or bare.plain:
            return bare
        padded = tuple(
            STUB_WIDTH if block.mlp is None else ceil256(width)
            for block, width in zip(blocks, widths, strict=True)
        )
        wide = replace(
            bare,
            family=LLAMA,
            dims=replace(self.dims, intermediate_size=ceil256(own)),
            absent=frozenset(site for site in bare.absent if site[1] is not Sublayer.MLP),
            mlp_widths=padded,
            biases=frozenset(
                matrix
                for part in (self.family.attention, self.family.mlp)
                if self.biases & part.shapes.keys()
                for matrix in part.shapes
            ),
        )
        beyond = replace(wide, family=self.family).beyond_nas
        if beyond is not None:
            raise SurgeonError(
                f"--portable writes the {NAS_MODEL_TYPE} dialect, which has no words for {beyond}; "
                "cut without it, or cut whole blocks"
            )
        if self.quantized and (padded != bare.mlp_widths or wide.biases != self.biases):
            raise SurgeonError(
                "--portable would have to add or pad quantized matrices, which surgeon cannot; "
                "cut without it, or cut the unquantized checkpoint"
            )
        return wide


def read_structure(config: dict[str, Any], family: Family, where: str) -> Structure:
    """The structure that a config.json of transformers 4 or 5 declares, in any dialect.

    ``where`` names the file in errors. Raises SurgeonError when a field is missing or is not what
    the family's class takes.
    """

    config = family.filled(config)

    def size(key: str, default: int | None = None) -> int:
        value = config.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SurgeonError(f"{where}: {key} is {value!r}; expected a positive whole number")
        return value

    def flag(key: str, default: bool) -> bool:
        value = config.get(key)
        return default if value is None else bool(value)

    heads = size("num_attention_heads")
    hidden = size("hidden_size")
    dims = Dims(
        hidden_size=hidden,
        intermediate_size=size("intermediate_size"),
        num_attention_heads=heads,
        num_key_value_heads=size("num_key_value_heads", heads),
        head_dim=size("head_dim", max(1, hidden // heads)),
        vocab_size=size("vocab_size"),
    )
    if heads % dims.num_key_value_heads:
        raise SurgeonError(
            f"{where}: num_attention_heads {heads} is not a multiple of num_key_value_heads "
            f"{dims.num_key_value_heads}"
        )
    epsilon = config.get("rms_norm_eps", 1e-6)
    if not isinstance(epsilon, int | float) or isinstance(epsilon, bool):
        raise SurgeonError(f"{where}: rms_norm_eps is {epsilon!r}; expected a number")
    layers = size("num_hidden_layers")
    if layers > MOST_LAYERS:
        raise SurgeonError(f"{where}: num_hidden_layers is {layers}; at most {MOST_LAYERS} make sense")
    absent: frozenset[Site] = frozenset()
    widths = (dims.intermediate_size,) * layers
    if config.get("model_type") in (NAS_MODEL_TYPE, *DIALECTS):
        absent, widths = _read_blocks(config, dims, layers, where)
    dtype = config.get("dtype", config.get("torch_dtype"))
    return Structure(
        family=family,
        dims=dims,
        num_layers=layers,
        absent=absent,
        mlp_widths=widths,
        tied=flag("tie_word_embeddings", False),
        biases=frozenset(
            matrix
            for part in (family.attention, family.mlp)
            for matrix in (part.shapes if part.bias and flag(part.bias, False) else part.biased)
        ),
        patterns=read_patterns(config, family, layers, where),
        quantized=any(config.get(key) for key in QUANTIZATION_KEYS),
        dtype=dtype if isinstance(dtype, str) else None,
    )


def ffn_mult(width: int, hidden_size: int) -> float:
    """How the nemotron-nas dialect writes an MLP width."""
    return 1.5 * width / hidden_size


def ceil256(width: int) -> int:
    """The next multiple of 256: what that dialect's readers round an MLP width to."""
    return -(-width // 256) * 256


def _read_blocks(
    config: dict[str, Any], dims: Dims, layers: int, where: str
) -> tuple[frozenset[Site], tuple[int, ...]]:
    """The missing sublayers and the MLP widths that ``block_configs`` declares."""
    blocks = config.get("block_configs")
    nas = config["model_type"] == NAS_MODEL_TYPE  # a family's own dialect has flags alone
    if not isinstance(blocks, list) or len(blocks) != layers:
        raise SurgeonError(f"{where}: block_configs does not list the {layers} layers of the model")
    absent: set[Site] = set()
    widths: list[int] = []
    group = dims.num_attention_heads // dims.num_key_value_heads
    own = ffn_mult(dims.intermediate_size, dims.hidden_size)
    for layer, block in enumerate(blocks):
        try:
            attention, ffn = block["attention"], block["ffn"]
            odd = attention.get("replace_with_linear") or ffn.get("replace_with_linear")
            if attention["no_op"]:
                absent.add((layer, Sublayer.ATTENTION))
            elif nas and attention["n_heads_in_group"] != group:
                odd = True
            width = dims.intermediate_size
            if ffn["no_op"]:
                absent.add((layer, Sublayer.MLP))
            elif nas and ffn["ffn_mult"] != own:
                width = ceil256(int(2 * ffn["ffn_mult"] * dims.hidden_size / 3))
            widths.append(width)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise SurgeonError(f"{where}: block_configs[{layer}] cannot be read ({error!r})") from None
        if odd:
            raise SurgeonError(
                f"{where}: block_configs[{layer}] has linear replacements or key-value heads of its "
                "own; surgeon reads only blocks whose sublayers are the model's or absent"
            )
    return frozenset(absent), tuple(widths)
