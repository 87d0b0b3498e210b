"""What the attention of each layer sees: its sliding window, and whether it has rope.

transformers says it in lists with an entry a layer, in a count, or leaves it to a class's default.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.families import Family, Windows
from surgeon.plan import Plan

_SLIDING = "sliding_attention"
_TYPES = ("full_attention", _SLIDING)

_PER_LAYER = ("layer_types", "no_rope_layers")
"""Config fields that have one entry a layer; each describes the layer's attention."""


@dataclass(frozen=True)
class Pattern:
    """One layer's attention. ``window`` counts the tokens it sees, its own included; None for all."""

    window: int | None = None
    rotary: bool = True


def read_patterns(
    config: dict[str, Any], family: Family, layers: int, where: str
) -> tuple[Pattern, ...]:
    """One entry a layer, attentions that are gone included.

    Raises SurgeonError, naming ``where``, for lists that do not fit the layers, and for kinds of
    attention that no family has.
    """
    config = family.filled(config)
    rotary = _rotary(config, family, layers, where)
    window = config.get("sliding_window")
    if family.windows is Windows.NONE or (
        family.windows is not Windows.ALL and not config.get("use_sliding_window")
    ):
        window = None
    if window is None:
        return tuple(Pattern(None, turns) for turns in rotary)
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        raise SurgeonError(f"{where}: sliding_window is {window!r}; expected a positive whole number")
    sliding = _sliding(config, family, rotary, where)
    return tuple(
        Pattern(window if slides else None, turns)
        for slides, turns in zip(sliding, rotary, strict=True)
    )


def _rotary(config: dict[str, Any], family: Family, layers: int, where: str) -> list[bool]:
    if not family.nope:
        return [True] * layers
    values = config.get("no_rope_layers")
    if values is None:
        interval = config.get("no_rope_layer_interval")
        if not isinstance(interval, int) or interval < 1:
            raise SurgeonError(f"{where}: no_rope_layer_interval is {interval!r}; expected a number")
        return [(layer + 1) % interval != 0 for layer in range(layers)]
    if not isinstance(values, list) or len(values) < layers:
        raise SurgeonError(f"{where}: no_rope_layers does not list the {layers} layers of the model")
    return [bool(value) for value in values[:layers]]


def _sliding(config: dict[str, Any], family: Family, rotary: Sequence[bool], where: str) -> list[bool]:
    layers = len(rotary)
    if family.windows is Windows.ALL:
        return [True] * layers
    types = config.get("layer_types")
    if types is None:
        if family.windows is Windows.NOPE:
            return [not turns for turns in rotary]
        first = config.get("max_window_layers")
        if not isinstance(first, int):
            raise SurgeonError(f"{where}: max_window_layers is {first!r}; expected a number")
        return [layer >= first for layer in range(layers)]
    if not isinstance(types, list) or len(types) != layers:
        raise SurgeonError(f"{where}: layer_types does not list the {layers} layers of the model")
    for kind in types:
        if kind not in _TYPES:
            raise SurgeonError(f"{where}: layer type {kind!r} is not known; only {', '.join(_TYPES)}")
    return [kind == _SLIDING for kind in types]


def cut_patterns(config: dict[str, Any], family: Family, plan: Plan, where: str) -> dict[str, Any]:
    """The config fields that say so of the outcome of ``plan``, sliced as its blocks are.

    What the class would work out from a layer's number is written out, since numbers change. A block
    without attention gets what the nearest one before it has (or after it): caches are made for what
    stands there, and must not be made for a kind that no attention has.
    """
    new: dict[str, Any] = {}
    patterns = read_patterns(config, family, plan.num_layers, where)
    lists = {key: config[key] for key in _PER_LAYER if isinstance(config.get(key), list)}
    if family.nope:
        lists.setdefault("no_rope_layers", [int(pattern.rotary) for pattern in patterns])
    if any(pattern.window for pattern in patterns) and family.windows is not Windows.ALL:
        lists.setdefault("layer_types", [_TYPES[pattern.window is not None] for pattern in patterns])
    sources = _attentions(plan)
    for key, values in lists.items():
        if len(values) >= plan.num_layers:
            new[key] = [values[layer] for layer in sources]
    first = config.get("max_window_layers")
    if isinstance(first, int):
        new["max_window_layers"] = sum(layer < first for layer in sources)
    return new


def _attentions(plan: Plan) -> list[int]:
    """Of each block the source layer of its attention, or of the nearest one."""
    found = [block.attention for block in plan.blocks]
    near = next((layer for layer in found if layer is not None), None)
    out = []
    for layer, block in zip(found, plan.blocks, strict=True):
        near = layer if layer is not None else near
        out.append(near if near is not None else block.mlp or 0)
    return out
