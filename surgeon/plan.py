"""Which sublayers go: a Llama is a list of sublayers on a residual stream, a plan keeps some of them.

Pure and small: a plan knows the number of layers and the removed (layer, sublayer) pairs, and
nothing of files. The window rule (``last``, ``keep_last``) is that of Tyukin et al., "Attention Is
All You Need But You Don't Need All Of It", arXiv 2407.15516.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Any, Self

from surgeon.errors import SurgeonError


class Sublayer(StrEnum):
    """A member of the residual stream's list; the value is the word used on the command line."""

    ATTENTION = "attn"
    MLP = "mlp"

    @property
    def word(self) -> str:
        """The name in running text."""
        return "attention" if self is Sublayer.ATTENTION else "MLP"


Site = tuple[int, Sublayer]
"""One sublayer of the source: (layer counted from 0, which of the two)."""

DROPS: dict[str, tuple[Sublayer, ...]] = {
    "attn": (Sublayer.ATTENTION,),
    "mlp": (Sublayer.MLP,),
    "block": (Sublayer.ATTENTION, Sublayer.MLP),
}
"""What the words of ``--drop`` remove of a layer."""


@dataclass(frozen=True)
class Block:
    """One block of the result: the source layers its attention and its MLP come from.

    ``None`` stands for a sublayer that the block does not have; never both.
    """

    attention: int | None
    mlp: int | None

    def source(self, sublayer: Sublayer) -> int | None:
        """The source layer of one of its sublayers."""
        return self.attention if sublayer is Sublayer.ATTENTION else self.mlp

    @property
    def whole(self) -> bool:
        """Whether both sublayers are there."""
        return self.attention is not None and self.mlp is not None


@dataclass(frozen=True)
class Plan:
    """The sublayers to remove from a model of ``num_layers`` layers.

    ``absent`` are sublayers that the source itself lacks, since it was cut before. Raises
    SurgeonError when a site is out of range, when nothing is removed, or when nothing is left.
    """

    num_layers: int
    removed: frozenset[Site]
    absent: frozenset[Site] = frozenset()

    def __post_init__(self) -> None:
        for name in ("removed", "absent"):
            try:
                sites = frozenset((int(layer), Sublayer(sub)) for layer, sub in getattr(self, name))
            except (TypeError, ValueError):
                raise SurgeonError(
                    f"plan: {name} is not a set of (layer, sublayer) pairs like (3, 'attn')"
                ) from None
            object.__setattr__(self, name, sites)
        if not self.removed:
            raise SurgeonError("plan: it removes nothing; name at least one layer")
        for layer, sublayer in self.removed | self.absent:
            if not 0 <= layer < self.num_layers:
                raise SurgeonError(
                    f"plan: layer {layer} ({sublayer}) is out of range; "
                    f"the model has layers 0-{self.num_layers - 1}"
                )
        object.__setattr__(self, "removed", self.removed - self.absent)
        if not self.removed:
            raise SurgeonError(
                "plan: it removes nothing; these sublayers are not in the model (any more)"
            )
        if not self.blocks:
            raise SurgeonError(
                f"plan: it removes every sublayer of all {self.num_layers} layers; keep at least one"
            )

    @classmethod
    def last(
        cls,
        num_layers: int,
        count: int,
        drop: str = "attn",
        keep_last: bool = False,
        absent: Iterable[Site] = (),
    ) -> Self:
        """The paper's rule: the sublayers of the last ``count`` layers go.

        With ``keep_last`` the window moves up by one: ``count`` layers before the last lose theirs
        and the last layer stays whole.
        """
        most = num_layers - 1 if keep_last else num_layers
        if not 1 <= count <= most:
            raise SurgeonError(
                f"plan: --last {count} is out of range; a model of {num_layers} layers"
                f"{' with --keep-last' if keep_last else ''} allows 1-{most}"
            )
        return cls._of(num_layers, range(most - count, most), drop, absent)

    @classmethod
    def fraction(
        cls,
        num_layers: int,
        fraction: str | float,
        drop: str = "attn",
        keep_last: bool = False,
        absent: Iterable[Site] = (),
    ) -> Self:
        """``last`` with count = round(fraction x layers), halves upwards.

        ``fraction`` is "33%" or 0.33: 33 % gives 11 of 32 and 13 of 40.
        """
        share = parse_fraction(fraction)
        count = int((share * num_layers).to_integral_value(ROUND_HALF_UP))
        if count == 0:
            raise SurgeonError(
                f"plan: --fraction {fraction} of {num_layers} layers rounds to none; ask for more"
            )
        return cls.last(num_layers, count, drop, keep_last, absent)

    @classmethod
    def layers(
        cls,
        num_layers: int,
        layers: str | Iterable[int],
        drop: str = "attn",
        keep_last: bool = False,
        absent: Iterable[Site] = (),
    ) -> Self:
        """The sublayers of named source layers, counted from 0: "18-30,33" (inclusive) or numbers.

        ``keep_last`` only guards: a list that names the last layer is then refused.
        """
        chosen = parse_layers(layers) if isinstance(layers, str) else tuple(layers)
        if keep_last and num_layers - 1 in chosen:
            raise SurgeonError(
                f"plan: --layers names layer {num_layers - 1}, the last one, which --keep-last "
                "keeps; leave out one of the two"
            )
        return cls._of(num_layers, chosen, drop, absent)

    @classmethod
    def highest(
        cls,
        num_layers: int,
        count: int,
        scores: Sequence[float | None],
        drop: str = "attn",
        keep_last: bool = False,
        absent: Iterable[Site] = (),
    ) -> Self:
        """The sublayers of the ``count`` layers with the highest scores, one a layer, None for no part.

        Of equal scores the deeper layer goes first. With ``keep_last`` the last layer is no candidate.
        """
        order = rank(scores[: num_layers - 1] if keep_last else scores)
        if not 1 <= count <= len(order):
            raise SurgeonError(
                f"plan: --count {count} is out of range; {len(order)} layers have what --drop {drop} "
                f"removes{', the last one left out' if keep_last else ''}"
            )
        return cls._of(num_layers, order[:count], drop, absent)

    @classmethod
    def _of(cls, num_layers: int, layers: Iterable[int], drop: str, absent: Iterable[Site]) -> Self:
        if drop not in DROPS:
            raise SurgeonError(f"plan: --drop {drop!r} is not known; use attn, mlp or block")
        removed = frozenset((layer, sub) for layer in layers for sub in DROPS[drop])
        return cls(num_layers, removed, frozenset(absent))

    def sites(self) -> Iterator[Site]:
        """The kept sublayers in the order of computation."""
        gone = self.removed | self.absent
        for layer in range(self.num_layers):
            for sublayer in Sublayer:
                if (layer, sublayer) not in gone:
                    yield layer, sublayer

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The kept sublayers as blocks: each attention with the MLP that follows it directly.

        Empty blocks vanish and numbers close up, so a cut of whole blocks is an ordinary,
        shorter Llama.
        """
        blocks: list[Block] = []
        waiting: int | None = None
        for layer, sublayer in self.sites():
            if sublayer is Sublayer.MLP:
                blocks.append(Block(waiting, layer))
                waiting = None
            else:
                if waiting is not None:
                    blocks.append(Block(waiting, None))
                waiting = layer
        if waiting is not None:
            blocks.append(Block(waiting, None))
        return tuple(blocks)

    def removed_layers(self, sublayer: Sublayer) -> tuple[int, ...]:
        """The source layers that lose this sublayer, ascending."""
        return tuple(sorted(layer for layer, sub in self.removed if sub is sublayer))

    def describe(self) -> str:
        """The plan in words: "removing attention of layers 26-38 of 40; layer 39 kept"."""
        attention, mlp = (set(self.removed_layers(sub)) for sub in Sublayer)
        parts = [
            f"{what} of layer{'s' if len(layers) > 1 else ''} {format_layers(layers)}"
            for what, layers in (
                ("attention and MLP", attention & mlp),
                ("attention", attention - mlp),
                ("MLP", mlp - attention),
            )
            if layers
        ]
        text = f"removing {', '.join(parts)} of {self.num_layers}"
        last = self.num_layers - 1
        gone = {layer for layer, _ in self.removed | self.absent}
        return f"{text}; layer {last} kept" if last - 1 in gone and last not in gone else text

    def to_json(self) -> dict[str, Any]:
        """As it stands in surgery.json; ``--layers`` takes the ranges as they are."""
        data: dict[str, Any] = {"num_layers": self.num_layers}
        for sublayer in Sublayer:
            data[sublayer.value] = format_layers(self.removed_layers(sublayer))
        if self.absent:
            data["absent"] = {
                sub.value: format_layers(layer for layer, s in self.absent if s is sub)
                for sub in Sublayer
            }
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Reads what ``to_json`` wrote; SurgeonError on anything else."""

        def sites(ranges: dict[str, Any]) -> frozenset[Site]:
            return frozenset(
                (layer, sub)
                for sub in Sublayer
                if ranges.get(sub.value)
                for layer in parse_layers(ranges[sub.value])
            )

        try:
            return cls(int(data["num_layers"]), sites(data), sites(data.get("absent", {})))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SurgeonError(f"plan: cannot be read ({error!r})") from None


def rank(scores: Sequence[float | None]) -> tuple[int, ...]:
    """Layers from the highest score to the lowest, those without one left out; ties: deeper first."""
    scored = [(score, layer) for layer, score in enumerate(scores) if score is not None]
    return tuple(layer for _, layer in sorted(scored, reverse=True))


def parse_fraction(text: str | float) -> Decimal:
    """ "33%" or 0.33 as a number between 0 and 1; SurgeonError otherwise."""
    raw = str(text).strip()
    try:
        value = Decimal(raw[:-1]) / 100 if raw.endswith("%") else Decimal(raw)
    except ArithmeticError:
        value = Decimal("NaN")
    if not (value.is_finite() and 0 < value <= 1):
        raise SurgeonError(f"plan: --fraction {raw} is not a share of the layers; write 33% or 0.33")
    return value


_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


def parse_layers(text: str) -> tuple[int, ...]:
    """ "18-30,33" as ascending layer numbers; ranges are inclusive. SurgeonError if malformed."""
    layers: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise SurgeonError(
                f"plan: --layers {text!r} is not a list of layers; write numbers and inclusive "
                "ranges, like 18-30,33"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise SurgeonError(f"plan: the range {part.strip()} in --layers runs backwards")
        layers.update(range(first, last + 1))
    return tuple(sorted(layers))


def format_layers(layers: Iterable[int]) -> str:
    """Layer numbers as inclusive ranges: (18, 19, 20, 33) is "18-20,33"."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
