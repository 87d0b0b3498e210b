"""The numbers that the paper prints: Tyukin et al., arXiv 2407.15516v1, Tables 1-10.

They are the paper's, not measured here, and whatever shows them has to say so.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.measure.grid import FRACTIONS, WHOLE, Variant, grid
from surgeon.measure.results import Cell, Measure, Report, Subject

PAPER = "Tyukin et al., 2024, https://arxiv.org/abs/2407.15516"

MODELS = {"llama-2-7b": ("Llama-2-7B", 32), "llama-2-13b": ("Llama-2-13B", 40)}
"""What ``--paper`` takes, beside "none": the paper's models, their names and layers."""

TABLES = {
    ("block", False): 1,
    ("attn", False): 2,
    ("mlp", False): 3,
    ("block", True): 4,
    ("attn", True): 5,
    ("mlp", True): 6,
}
"""The number of the paper's table for what is dropped and whether the last layer is kept."""

_KEPT = dict(zip((90, 75, 66), FRACTIONS, strict=True))

_COLUMNS = {
    "arc": Measure("arc_challenge", "ARC", "%", True, "25-shot acc_norm"),
    "hellaswag": Measure("hellaswag", "HellaSwag", "%", True, "10-shot acc_norm"),
    "truthfulqa": Measure("truthfulqa_mc2", "TruthfulQA", "%", True, "0-shot mc2"),
    "mmlu": Measure("mmlu", "MMLU", "%", True, "5-shot acc"),
    "average": Measure("average", "Average", "%", True, "of the four, as printed"),
}


@dataclass(frozen=True)
class Timing:
    """A row of Tables 7-10, Llama-2-7B: time for one new token, in the unit that is printed there.

    ``fraction`` is the share of layers that lose ``drop``; ``improvement`` is in percent of
    ``baseline``, the whole model's time.
    """

    table: int
    prompt_tokens: int
    drop: str
    fraction: str
    keep_last: bool
    time: float
    baseline: float
    improvement: float


def choose(word: str, model: str) -> str | None:
    """The key of MODELS for ``--paper``: as asked for, None for "none".

    "auto" looks for Llama-2-7B or 13B in the name of the model that was measured. SurgeonError for
    other words.
    """
    if word == "auto":
        name = re.sub(r"[^a-z0-9]+", "-", model.lower())
        found = re.search(r"(?<![a-z0-9])(llama-2-(?:7|13)b)(?![a-z0-9])", name)
        return found[1] if found else None
    if word == "none":
        return None
    if word not in MODELS:
        raise SurgeonError(f"--paper {word!r} is not known; use auto, none, {', '.join(MODELS)}")
    return word


def quality(key: str) -> Report:
    """Tables 1-6 for one of MODELS, as if they had been measured: scores in percent."""
    name, num_layers = MODELS[key]
    rows = {
        (row["drop"], _KEPT.get(row["kept_percent"]), row["keep_last"]): row
        for row in _data()["quality"]
        if row["model"] == name
    }

    def cell(variant: Variant) -> Cell:
        drop = variant.drop or "attn"  # the whole model stands in every table
        row = rows[drop, variant.fraction, variant.keep_last]
        return Cell(variant, {measure.name: row[column] for column, measure in _COLUMNS.items()})

    variants = grid(num_layers)
    subject = Subject(name, None, "", num_layers, 0, "", "")
    assert variants[0] == WHOLE
    return Report(subject, {"source": PAPER}, tuple(_COLUMNS.values()), tuple(map(cell, variants)))


def latency() -> tuple[Timing, ...]:
    """Tables 7-10, in their order."""
    return tuple(
        Timing(
            table=row["table"],
            prompt_tokens=row["prompt_tokens"],
            drop=row["drop"],
            fraction=_KEPT[row["kept_percent"]],
            keep_last=row["keep_last"],
            time=row["time"],
            baseline=row["baseline_time"],
            improvement=row["improvement_percent"],
        )
        for row in _data()["time"]
    )


def inconsistencies() -> tuple[str, ...]:
    """Where the paper's numbers contradict each other, a sentence each."""
    return tuple(_data()["known_inconsistencies"])


@cache
def _data() -> dict[str, Any]:
    text = files("surgeon.measure").joinpath("paper_tables.json").read_text("utf-8")
    data: dict[str, Any] = json.loads(text)
    return data
