"""What was measured, as values: a report is the scores of every variant of one model.

Plain data that turns into JSON and back without loss; tables, pages and plots are views of it.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

from surgeon.errors import SurgeonError
from surgeon.measure.grid import Variant

FORMAT = 1
"""The number of this JSON layout; files of another one are refused."""


@dataclass(frozen=True)
class Subject:
    """The model that was measured: where it comes from, and what ran it."""

    model: str
    revision: str | None
    fingerprint: str
    num_layers: int
    parameters: int
    dtype: str
    device: str
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """One column: ``unit`` is "%", "nats/token", ...; ``detail`` its settings, "25-shot acc_norm"."""

    name: str
    label: str
    unit: str
    higher_is_better: bool
    detail: str = ""


@dataclass(frozen=True)
class Cell:
    """The scores of one variant by the names of the measures; ``stderr`` where there is one.

    ``seconds`` is the time it took alone; what variants share is counted with the first of them.
    """

    variant: Variant
    scores: dict[str, float]
    stderr: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """A grid of cells, the whole model first. ``settings`` are those that scores depend on."""

    subject: Subject
    settings: dict[str, Any]
    measures: tuple[Measure, ...]
    cells: tuple[Cell, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        cells = [{**asdict(cell), "variant": cell.variant.to_json()} for cell in self.cells]
        return {
            "format": FORMAT,
            "subject": asdict(self.subject),
            "settings": self.settings,
            "measures": [asdict(measure) for measure in self.measures],
            "cells": cells,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], where: str) -> Self:
        """Reads what ``to_json`` wrote; SurgeonError, naming ``where``, on anything else."""
        try:
            if data["format"] != FORMAT:
                raise SurgeonError(
                    f"{where}: is of format {data['format']}, not {FORMAT}; measure anew"
                )
            cells = tuple(
                Cell(**{**cell, "variant": Variant.from_json(cell["variant"])})
                for cell in data["cells"]
            )
            measures = tuple(Measure(**measure) for measure in data["measures"])
            return cls(Subject(**data["subject"]), data["settings"], measures, cells)
        except (KeyError, TypeError, ValueError) as error:
            raise SurgeonError(f"{where}: is not a report of surgeon ({error!r})") from None
