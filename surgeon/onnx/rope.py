"""Rotary position embedding as a table: every kind that Llama checkpoints use.

The formulas are those of transformers' modeling_rope_utils, in float32 as there, so that tables are
equal to the last bit or two even at positions where float32 itself is coarse.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgeon.errors import SurgeonError

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Rope:
    """What a config.json says about positions, in either style of transformers.

    ``length`` is the number of positions a table has: max_position_embeddings.
    """

    kind: str
    theta: float
    head_dim: int
    length: int
    settings: dict[str, Any]


def read_rope(config: dict[str, Any], head_dim: int, where: str) -> Rope:
    """The rope settings of a config; SurgeonError, by name, for kinds that a table cannot express."""
    settings = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(settings, dict):
        raise SurgeonError(f"{where}: its rope settings are {settings!r}; expected a table")
    theta = settings.get("rope_theta", config.get("rope_theta")) or 10000.0
    kind = settings.get("rope_type", settings.get("type", "default"))
    if not isinstance(theta, int | float):
        raise SurgeonError(f"{where}: rope_theta is {theta!r}; expected a number")
    if not isinstance(kind, str) or kind not in _INVERSE:
        raise SurgeonError(
            f"{where}: rope type {kind!r} is not known; known are {', '.join(sorted(_INVERSE))}"
        )
    length = config.get("max_position_embeddings", 2048)
    if not isinstance(length, int) or length < 1:
        raise SurgeonError(f"{where}: max_position_embeddings is {length!r}; expected a number")
    for key in _NEEDED.get(kind, ()):
        if not isinstance(settings.get(key), int | float):
            raise SurgeonError(f"{where}: rope type {kind!r} needs a number for {key}")
    return Rope(kind, float(theta), head_dim, length, settings)


_NEEDED = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}


def frequencies(rope: Rope) -> "tuple[Array, float]":
    """Radians a position, float32 [head_dim / 2], and what cosines and sines are multiplied by."""
    return _INVERSE[rope.kind](rope)


def tables(rope: Rope) -> "tuple[Array, Array]":
    """Cosines and sines, float32 [length, head_dim / 2]."""
    import numpy as np

    inverse, scale = frequencies(rope)
    angles = np.outer(np.arange(rope.length, dtype=np.float32), inverse.astype(np.float32))
    cos, sin = np.cos(angles), np.sin(angles)
    if scale != 1.0:
        cos, sin = cos * np.float32(scale), sin * np.float32(scale)
    return cos, sin


def _default(rope: Rope) -> "tuple[Array, float]":
    import numpy as np

    exponents = np.arange(0, rope.head_dim, 2, dtype=np.float32) / np.float32(rope.head_dim)
    powers = np.power(rope.theta, exponents.astype(np.float64)).astype(np.float32)
    return np.float32(1) / powers, 1.0


def _linear(rope: Rope) -> "tuple[Array, float]":
    import numpy as np

    inverse, scale = _default(rope)
    return (inverse / np.float32(rope.settings["factor"])).astype(np.float32), scale


def _llama3(rope: Rope) -> "tuple[Array, float]":
    """Long wavelengths are slowed down by the factor, short ones stay, those between are blended."""
    import numpy as np

    inverse, scale = _default(rope)
    s = rope.settings
    factor, low, high = s["factor"], s["low_freq_factor"], s["high_freq_factor"]
    context = s.get("original_max_position_embeddings") or rope.length
    wavelength = 2 * np.float32(math.pi) / inverse
    smooth = (context / wavelength - low) / (high - low)
    blended = (1 - smooth) * inverse / factor + smooth * inverse
    slow = np.where(wavelength > context / low, inverse / factor, inverse)
    between = (wavelength >= context / high) & (wavelength <= context / low)
    return np.where(between, blended, slow).astype(np.float32), scale


def _yarn(rope: Rope) -> "tuple[Array, float]":
    """Interpolation for long wavelengths, extrapolation for short ones, a ramp between them."""
    import numpy as np

    s = rope.settings
    context = s.get("original_max_position_embeddings") or rope.length
    factor = s.get("factor") or rope.length / context
    scale = s.get("attention_factor")
    if scale is None:
        scale = _yarn_scale(factor, s)

    def dimension(rotations: float) -> float:
        turns = context / (rotations * 2 * math.pi)
        return rope.head_dim * math.log(turns) / (2 * math.log(rope.theta))

    low = dimension(s.get("beta_fast") or 32)
    high = dimension(s.get("beta_slow") or 1)
    if s.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.head_dim - 1)
    high += 0.001 if low == high else 0
    steps: Any = np.arange(rope.head_dim // 2, dtype=np.float32)
    ramp = np.clip((steps - np.float32(low)) / np.float32(high - low), 0, 1)
    inverse, _ = _default(rope)
    blended = inverse / np.float32(factor) * ramp + inverse * (1 - ramp)
    return blended.astype(np.float32), float(scale)


def _yarn_scale(factor: float, settings: dict[str, Any]) -> float:
    def scale(strength: float) -> float:
        return 0.1 * strength * math.log(factor) + 1.0 if factor > 1 else 1.0

    one, all_dims = settings.get("mscale"), settings.get("mscale_all_dim")
    return scale(one) / scale(all_dims) if one and all_dims else scale(1.0)


_INVERSE = {
    "default": _default,
    "linear": _linear,
    # it changes only beyond max_position_embeddings, where the table ends
    "dynamic": _default,
    "llama3": _llama3,
    "yarn": _yarn,
}
