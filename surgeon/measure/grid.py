"""The cuts that are measured side by side: the paper's grid, and single ones.

A variant is a set of removed sublayers with the words it was asked for. The grid is that of Tyukin et
al., arXiv 2407.15516, Tables 1-10: attention, MLP or whole blocks of the last k layers, with and
without keeping the very last one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from surgeon.errors import SurgeonError
from surgeon.plan import DROPS, Plan, Site, Sublayer, parse_fraction

FRACTIONS = ("10%", "25%", "33%")
"""The paper's shares of layers that lose a sublayer; it names them by what is kept: 90, 75, 66 %."""

KEEP_LAST = {"both": (False, True), "yes": (True,), "no": (False,)}
"""What ``--keep-last`` of a grid takes."""


@dataclass(frozen=True)
class Variant:
    """One cut of a grid: the sites that go, and the words for it.

    ``drop`` is "attn", "mlp" or "block", None for the whole model and for a cut of another making;
    ``fraction`` is the share as it was asked for ("33%"), None where there was none; ``count`` the
    number of layers that lose something.
    """

    name: str
    removed: frozenset[Site] = frozenset()
    drop: str | None = None
    fraction: str | None = None
    count: int = 0
    keep_last: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it stands in reports; ``removed`` as [layer, "attn" or "mlp"], ascending."""
        return {
            "name": self.name,
            "drop": self.drop,
            "fraction": self.fraction,
            "count": self.count,
            "keep_last": self.keep_last,
            "removed": [[layer, sub.value] for layer, sub in sorted(self.removed)],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Reads what ``to_json`` wrote; KeyError, TypeError or ValueError on anything else."""
        removed = frozenset((int(layer), Sublayer(sub)) for layer, sub in data["removed"])
        return cls(
            name=str(data["name"]),
            removed=removed,
            drop=data["drop"],
            fraction=data["fraction"],
            count=int(data["count"]),
            keep_last=bool(data["keep_last"]),
        )


WHOLE = Variant("whole")


def cut(plan: Plan, name: str | None = None) -> Variant:
    """A single plan as a variant."""
    layers = {layer for layer, _ in plan.removed}
    return Variant(name or plan.describe(), plan.removed, count=len(layers))


def grid(
    num_layers: int,
    drops: Sequence[str] = tuple(DROPS),
    fractions: Sequence[str] = FRACTIONS,
    keep_last: str = "both",
    absent: Iterable[Site] = (),
    notify: Callable[[str], None] = lambda words: None,
) -> tuple[Variant, ...]:
    """The whole model first, then every cut, in the order of the paper's tables.

    The fraction "0" stands for the whole model, which is there anyway. Fractions that come to the same
    number of layers are one variant. A cut that this model does not allow, since the fraction rounds to
    no layer or the sublayers are gone already, is left out, and ``notify`` gets the reason.
    SurgeonError for words that are not known, and where no cut is left.
    """
    if keep_last not in KEEP_LAST:
        raise SurgeonError(f"--keep-last {keep_last!r} is not known; use {', '.join(KEEP_LAST)}")
    for drop in drops:
        if drop not in DROPS:
            raise SurgeonError(f"--drop {drop!r} is not known; use {', '.join(DROPS)}")
    shares = [fraction.strip() for fraction in fractions if fraction.strip().rstrip("%").strip("0.")]
    for share in shares:
        parse_fraction(share)
    unique: dict[tuple[str | None, frozenset[Site], bool], Variant] = {}
    refusals: dict[str, list[str]] = {}
    gone = frozenset(absent)
    for keep in KEEP_LAST[keep_last]:
        for drop in drops:
            for share in shares:
                try:
                    plan = Plan.fraction(num_layers, share, drop, keep, gone)
                except SurgeonError as refusal:
                    words = str(refusal).removeprefix("plan: ")
                    name = f"{drop} {share}{', last layer kept' if keep else ''}"
                    refusals.setdefault(words, []).extend([] if share in words else [name])
                    continue
                unique.setdefault((drop, plan.removed, keep), _variant(plan, drop, share, keep))
    if shares and not unique:
        raise SurgeonError(f"plan: {next(iter(refusals))}")
    for words, names in refusals.items():
        notify(": ".join(filter(None, ("left out", "; ".join(names), words))))
    return (WHOLE, *unique.values())


def _variant(plan: Plan, drop: str, fraction: str, keep: bool) -> Variant:
    count = len({layer for layer, _ in plan.removed})
    name = f"{drop} last {count}" + (", last layer kept" if keep else "")
    return Variant(name, plan.removed, drop, fraction, count, keep)
