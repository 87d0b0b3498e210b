"""Reports to show: loss rises of the reference model as they were measured once, and made-up ones."""

import math

from surgeon.measure.grid import Variant, grid
from surgeon.measure.results import Cell, Measure, Report, Subject

LOSS = Measure("loss", "Loss", "nats/token", False, "windows of 512 tokens")
PERPLEXITY = Measure("perplexity", "Perplexity", "", False, "exp(loss)")
BITS = Measure("bits_per_byte", "Bits per byte", "bits/byte", False)
TASKS = (
    Measure("arc_challenge", "ARC", "%", True, "25-shot acc_norm"),
    Measure("hellaswag", "HellaSwag", "%", True, "10-shot acc_norm"),
    Measure("truthfulqa_mc2", "TruthfulQA", "%", True, "0-shot mc2"),
    Measure("mmlu", "MMLU", "%", True, "5-shot acc"),
    Measure("average", "Average", "%", True, "of the four"),
)

WHOLE_LOSS = 3.364
RISES = {  # nats per token over the whole model's; the last 1, 2, 4, 6, 8 of 24 layers
    ("attn", False): (0.044, 0.077, 0.351, 0.553, 0.712),
    ("attn", True): (0.022, 0.094, 0.402, 0.556, 0.669),
    ("mlp", False): (0.231, 0.480, 0.955, 1.778, 2.548),
    ("mlp", True): (0.089, 0.194, 0.466, 0.794, 1.204),
    ("block", False): (0.271, 0.500, 0.959, 1.376, 1.614),
    ("block", True): (0.107, 0.261, 0.628, 0.815, 0.990),
}
FRACTIONS = ("4%", "8%", "17%", "25%", "33%")


def subject(name: str = "models/reference", layers: int = 24) -> Subject:
    versions = {"surgeon": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}
    return Subject(name, None, "5f0c" * 16, layers, 26_000_000, "float32", "cpu", versions)


def losses(name: str = "models/reference") -> Report:
    """The first table of the measurements that this project started from."""

    def cell(variant: Variant) -> Cell:
        rise = 0.0
        if variant.drop:
            rise = RISES[variant.drop, variant.keep_last][FRACTIONS.index(variant.fraction or "")]
        loss = WHOLE_LOSS + rise
        return Cell(variant, {"loss": loss, "perplexity": math.exp(loss)})

    cells = tuple(map(cell, grid(24, fractions=FRACTIONS)))
    settings = {"text": ["books_valid.txt"], "window": 512}
    return Report(subject(name), settings, (LOSS, PERPLEXITY), cells)


def scores(layers: int = 32, fractions: tuple[str, ...] = ("10%", "25%", "33%")) -> Report:
    """Made-up scores of the four tasks: attention costs little, MLPs more, blocks most."""
    slopes = {"attn": 6.0, "mlp": 30.0, "block": 36.0}

    def cell(variant: Variant) -> Cell:
        fall = slopes.get(variant.drop or "", 0.0) * variant.count / layers
        values = {
            m.name: start - fall for m, start in zip(TASKS, (53.0, 78.0, 39.0, 47.0), strict=False)
        }
        values["average"] = sum(values.values()) / 4
        return Cell(variant, values, {m.name: 1.4 for m in TASKS[:4]})

    settings = {"tasks": ["openllm"], "limit": 100, "include_path": "my tasks"}
    cells = tuple(map(cell, grid(layers, fractions=fractions)))
    return Report(subject("made-up", layers), settings, TASKS, cells)
