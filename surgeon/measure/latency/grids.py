"""The words of the command line for what to time, as variants of an open model."""

import os
from collections.abc import Callable, Sequence

from surgeon.checkpoint.source import Checkpoint
from surgeon.errors import SurgeonError
from surgeon.measure.grid import Variant, cut, grid
from surgeon.plan import DROPS
from surgeon.rule import Rule


def choose_grid(
    drop: str = "attn,mlp,block",
    fractions: str = "10%,25%,33%",
    keep_last: str = "both",
    last: int | None = None,
    fraction: str | None = None,
    layers: str | None = None,
    count: int | None = None,
    by: str | os.PathLike[str] | None = None,
    notify: Callable[[str], None] = lambda words: None,
) -> Callable[[Checkpoint], Sequence[Variant]]:
    """The paper's grid, or, with one of ``last``, ``fraction``, ``layers`` and ``count``, that cut of
    each kind, as ``Rule`` reads it.

    ``notify`` gets what a model has no layers for, which is left out of a grid. SurgeonError for words
    that are not known; when the model is open, for a cut that it does not allow.
    """
    drops = [word.strip() for word in drop.split(",")]
    for word in drops:
        if word not in DROPS:
            raise SurgeonError(f"--drop {word!r} is not known; use {', '.join(DROPS)}")
    shares = [share.strip() for share in fractions.split(",")]

    def variants(checkpoint: Checkpoint) -> Sequence[Variant]:
        if all(word is None for word in (last, fraction, layers, count, by)):
            structure = checkpoint.structure
            return grid(structure.num_layers, drops, shares, keep_last, structure.absent, notify)
        kept = keep_last == "yes"
        rules = (Rule(d, last, fraction, layers, count, by, kept) for d in drops)
        return [cut(rule.of(checkpoint).plan) for rule in rules]

    return variants
