"""The command that makes a report again."""

import shlex
from collections.abc import Iterable, Iterator, Sequence
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
    (grid,) = cut_options(cell.variant for cell in report.cells)  # a sweep has no single cuts
    words = ["surgeon", "sweep", model, *grid, *_options(report.settings)]
    device = subject.device.partition(":")[0].split(" ")[0].lower()
    if device in ("cpu", "cuda", "mps"):
        words += ["--device", device]
    if subject.dtype:
        words += ["--dtype", subject.dtype]
    return shlex.join([*words, "-o", "REPORT"])


def cut_options(variants: Iterable[Variant]) -> list[list[str]]:
    """The options that choose these cuts, a list for each command that it takes: those of a grid, then
    those of single cuts, together where they are of the same layers. A cut that no option says, of
    attentions here and MLPs there, has none."""
    cuts = [variant for variant in variants if variant.removed]
    of_a_grid = [cut for cut in cuts if cut.drop and cut.fraction]
    found = [_grid(of_a_grid)] if of_a_grid or not cuts else []
    drops: dict[str, list[str]] = {}
    for cut in cuts:
        layers = {layer for layer, _ in cut.removed}
        kinds = {sublayer for _, sublayer in cut.removed}
        if cut not in of_a_grid and len(cut.removed) == len(layers) * len(kinds):
            drop = "block" if len(kinds) == 2 else kinds.pop().value
            drops.setdefault(format_layers(layers), []).append(drop)
    return found + [["--drop", ",".join(those), "--layers", at] for at, those in drops.items()]


def _grid(cuts: Sequence[Variant]) -> list[str]:
    if not cuts:
        return []
    drops = ",".join(drop for drop in DROP_NAMES if any(cut.drop == drop for cut in cuts))
    fractions = ",".join(dict.fromkeys(str(cut.fraction) for cut in cuts))
    kept = {cut.keep_last for cut in cuts}
    keep = "both" if len(kept) == 2 else "yes" if True in kept else "no"
    return ["--drop", drops, "--fractions", fractions, "--keep-last", keep]


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
