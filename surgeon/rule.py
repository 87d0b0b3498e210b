"""How a cut is chosen: the words of the command line, and the plan that they make of a model.

A plan is a set of sublayers; a rule says which ones without knowing the model: the last third, the
eight most redundant. ``choose`` brings the two together, and explains itself where the words alone do
not tell the outcome.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgeon.errors import SurgeonError
from surgeon.plan import DROPS, Plan, Site, format_layers, rank

if TYPE_CHECKING:
    from surgeon.checkpoint.source import Checkpoint
    from surgeon.measure.similarity import Similarity


@dataclass(frozen=True)
class Choice:
    """A plan and what led to it; ``why`` has a line for each step that the words do not show."""

    plan: Plan
    why: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """What to remove ("attn", "mlp", "block"), and of which layers: one of four ways to name them.

    ``last``, ``fraction`` and ``layers`` are those of ``Plan``. ``count`` takes the most redundant,
    which turn the residual stream the least, as ``by`` has it: the path of a similarity.json or of its
    folder, or a ``Similarity``. ``keep_last`` leaves the last layer whole.
    """

    drop: str = "attn"
    last: int | None = None
    fraction: str | float | None = None
    layers: str | Iterable[int] | None = None
    count: int | None = None
    by: "str | os.PathLike[str] | Similarity | None" = None
    keep_last: bool = False

    @property
    def given(self) -> bool:
        """Whether any word differs from its default."""
        return self != Rule()

    def of(self, checkpoint: "Checkpoint") -> Choice:
        """The choice for an open checkpoint; SurgeonError if the words do not fit it."""
        structure = checkpoint.structure
        return self.choose(structure.num_layers, structure.absent, checkpoint)

    def choose(
        self,
        num_layers: int,
        absent: Iterable[Site] = (),
        checkpoint: "Checkpoint | None" = None,
    ) -> Choice:
        """The choice for a model of ``num_layers`` that lacks ``absent``.

        A similarity must belong to the ``checkpoint``. SurgeonError unless exactly one way of choosing
        is given, and when the model has no such layers.
        """
        if self.count is not None and self.by is None:
            raise SurgeonError(
                "plan: --count needs --by FILE, which says what to rank by; "
                "surgeon similarity MODEL -o DIR writes one"
            )
        if self.by is not None and self.count is None:
            raise SurgeonError("plan: --by needs --count N, the number of layers to cut")
        ways = (self.last, self.fraction, self.layers, self.count)
        if sum(way is not None for way in ways) != 1:
            raise SurgeonError(
                "plan: give exactly one of --last, --fraction, --layers and --count with --by"
            )
        if self.drop not in DROPS:
            raise SurgeonError(f"plan: --drop {self.drop!r} is not known; use {', '.join(DROPS)}")
        if self.count is not None and self.by is not None:
            return self._by_similarity(self.count, self.by, absent, checkpoint)
        return Choice(self._by_place(num_layers, absent))

    def _by_place(self, num_layers: int, absent: Iterable[Site]) -> Plan:
        if self.last is not None:
            return Plan.last(num_layers, self.last, self.drop, self.keep_last, absent)
        if self.fraction is not None:
            return Plan.fraction(num_layers, self.fraction, self.drop, self.keep_last, absent)
        layers = () if self.layers is None else self.layers
        return Plan.layers(num_layers, layers, self.drop, self.keep_last, absent)

    def _by_similarity(
        self,
        count: int,
        by: "str | os.PathLike[str] | Similarity",
        absent: Iterable[Site],
        checkpoint: "Checkpoint | None",
    ) -> Choice:
        from surgeon.measure.similarity import read_similarity

        measured, where = (
            read_similarity(by) if isinstance(by, str | os.PathLike) else (by, "similarity")
        )
        if checkpoint is None:
            raise SurgeonError(f"{where}: ranks layers of a checkpoint; random weights have no ranks")
        note = measured.check_belongs(checkpoint, where)
        num_layers = checkpoint.structure.num_layers
        scores = measured.scores(self.drop)
        plan = Plan.highest(num_layers, count, scores, self.drop, self.keep_last, absent)
        candidates = rank(scores[: num_layers - 1] if self.keep_last else scores)
        chosen, rest = candidates[:count], candidates[count:]
        low, high = (f"{scores[layer]:.4f}" for layer in (chosen[-1], chosen[0]))
        which = f"layer{'s' if count > 1 else ''} {format_layers(chosen)}"
        what = {"attn": f"attention of {which}", "mlp": f"MLP of {which}", "block": which}[self.drop]
        line = f"{what}: cosine similarity {low if low == high else f'{low}-{high}'}"
        if rest:
            line += f"; the next would have been layer {rest[0]} at {scores[rest[0]]:.4f}"
        note = f" ({note})" if note else ""
        return Choice(plan, (line, f"measured on {measured.describe()}{note}"))
