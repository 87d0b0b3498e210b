"""The command that makes a report again."""

import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from surgeon.measure.grid import Variant
from surgeon.measure.results import Report
from surgeon.measure.tables import DROP_NAMES
from surgeon.plan import format_layers

_FLAGS = frozenset(
    ("text", "window", "stride", "characters", "windows", "tasks", "limit", "include_path", "seed")
)
"""The settings that are options of ``surgeon sweep``; the others follow from these."""


def repeat_command(report: Report, model: str | None = None) -> str:
    """One line for a shell: the model as it was asked for, the grid, the settings and what ran it."""
    subject = report.subject
    model = model or subject.model
    if subject.revision and "@" not in model:
        model += f"@{subject.revision}"
    grid = grid_options(cell.variant for cell in report.cells)
    words = ["surgeon", "sweep", model, *grid, *_options(report.settings)]
    device = subject.device.partition(":")[0].split(" ")[0].lower()
    if device in ("cpu", "cuda", "mps"):
        words += ["--device", device]
    if subject.dtype:
        words += ["--dtype", subject.dtype]
    return shlex.join([*words, "-o", "REPORT"])


def grid_options(variants: Iterable[Variant]) -> Iterator[str]:
    """The options that choose these cuts: those of a grid, or the layers of single ones."""
    cuts = [variant for variant in variants if variant.removed]
    fractions = dict.fromkeys(cut.fraction for cut in cuts if cut.drop and cut.fraction)
    if not fractions:
        yield from _layers(cuts)
        return
    yield from (
        "--drop",
        ",".join(drop for drop in DROP_NAMES if any(cut.drop == drop for cut in cuts)),
    )
    yield from ("--fractions", ",".join(fractions))
    kept = {cut.keep_last for cut in cuts if cut.drop}
    yield from ("--keep-last", "both" if len(kept) == 2 else "yes" if True in kept else "no")


def _layers(cuts: Iterable[Variant]) -> Iterator[str]:
    found: dict[str, str] = {}
    for cut in cuts:
        layers = {layer for layer, _ in cut.removed}
        kinds = {sublayer for _, sublayer in cut.removed}
        if len(cut.removed) != len(layers) * len(kinds):
            return  # no option says that
        drop = "block" if len(kinds) == 2 else kinds.pop().value
        found[drop] = format_layers(layers)
    if len(set(found.values())) == 1:
        yield from ("--drop", ",".join(found), "--layers", next(iter(found.values())))


def _options(settings: dict[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _options(value)
        elif name in _FLAGS and value not in (None, "", [], ()):
            flag = f"--{name.replace('_', '-')}"
            if name == "tasks" and isinstance(value, list | tuple):
                yield from (flag, ",".join(map(str, value)))
            else:
                for item in value if isinstance(value, list | tuple) else (value,):
                    yield from (flag, str(item))
