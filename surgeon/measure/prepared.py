"""What is to be scored and what the scores mean: the seam between settings and the engine.

Texts and the tasks of lm-evaluation-harness both come down to items before the first one is computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from surgeon.measure.grid import Variant
from surgeon.measure.opened import Opened
from surgeon.measure.results import Measure
from surgeon.measure.scoring import Item, Score


@dataclass(frozen=True)
class Scores:
    """The values of one variant by the names of the measures, and standard errors where there are."""

    values: dict[str, float]
    stderr: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """Items, and what becomes of their scores.

    ``settings`` stand in the report; they repeat the measurement. ``identity`` is what scores depend
    on, as a journal keeps it: contents rather than paths. ``summarize`` turns the scores of one
    variant, in the order of the items, into values of ``measures``.
    """

    items: tuple[Item, ...]
    measures: tuple[Measure, ...]
    settings: dict[str, Any]
    identity: dict[str, Any]
    summarize: Callable[[Variant, Sequence[Score]], Scores]


class Settings(Protocol):
    """A way to measure quality: ``TextSettings`` is one."""

    def prepare(self, opened: Opened, notify: Callable[[str], None]) -> Prepared:
        """Makes the items for a model; SurgeonError, before anything long begins, if it cannot."""
