"""What a config.json says about the shape of the model, checked once and typed."""

from dataclasses import dataclass, replace
from typing import Any, Self

from surgeon.errors import SurgeonError
from surgeon.families import NAS_MODEL_TYPE, Family
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
    """

    family: Family
    dims: Dims
    num_layers: int
    absent: frozenset[Site]
    mlp_widths: tuple[int, ...]
    tied: bool
    biases: frozenset[Sublayer]
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
        """Whether the family's own class can express it; else the nemotron-nas dialect must."""
        return not self.absent and set(self.mlp_widths) == {self.dims.intermediate_size}

    def cut(self, plan: Plan, portable: bool = False) -> Self:
        """The structure after a plan.

        ``portable`` gives blocks without an MLP a zero one of width 256 and pads MLP widths to
        multiples of 256, where the result needs the dialect whose other readers insist on both.
        Raises SurgeonError where that would mean padding quantized matrices.
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
        )
        if not portable or bare.plain:
            return bare
        padded = tuple(
            STUB_WIDTH if block.mlp is None else ceil256(width)
            for block, width in zip(blocks, widths, strict=True)
        )
        if self.quantized and padded != bare.mlp_widths:
            raise SurgeonError(
                "--portable would have to add or pad quantized matrices, which surgeon cannot; "
                "cut without it, or cut the unquantized checkpoint"
            )
        return replace(
            bare,
            dims=replace(self.dims, intermediate_size=ceil256(own)),
            absent=frozenset(site for site in bare.absent if site[1] is not Sublayer.MLP),
            mlp_widths=padded,
        )


def read_structure(config: dict[str, Any], family: Family, where: str) -> Structure:
    """The structure that a config.json of transformers 4 or 5 declares, either dialect.

    ``where`` names the file in errors. Raises SurgeonError when a field is missing or is not what
    the family's class takes.
    """

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
    layers = size("num_hidden_layers")
    if layers > MOST_LAYERS:
        raise SurgeonError(f"{where}: num_hidden_layers is {layers}; at most {MOST_LAYERS} make sense")
    absent: frozenset[Site] = frozenset()
    widths = (dims.intermediate_size,) * layers
    if config.get("model_type") == NAS_MODEL_TYPE:
        absent, widths = _read_blocks(config, dims, layers, where)
    dtype = config.get("dtype", config.get("torch_dtype"))
    return Structure(
        family=family,
        dims=dims,
        num_layers=layers,
        absent=absent,
        mlp_widths=widths,
        tied=flag("tie_word_embeddings", family.tied),
        biases=frozenset(sub for sub in Sublayer if flag(family.part(sub).bias, False)),
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
            elif attention["n_heads_in_group"] != group:
                odd = True
            width = dims.intermediate_size
            if ffn["no_op"]:
                absent.add((layer, Sublayer.MLP))
            elif ffn["ffn_mult"] != own:
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
