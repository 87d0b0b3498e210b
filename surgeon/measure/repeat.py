"""The command that makes a report again."""

import shlex
from collections.abc import Iterator
from typing import Any

from surgeon.measure.results import Report
from surgeon.measure.tables import DROP_NAMES

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
    words = ["surgeon", "sweep", model, *_grid(report), *_options(report.settings)]
    device = subject.device.partition(":")[0].split(" ")[0].lower()
    if device in ("cpu", "cuda", "mps"):
        words += ["--device", device]
    if subject.dtype:
        words += ["--dtype", subject.dtype]
    return shlex.join([*words, "-o", "REPORT"])


def _grid(report: Report) -> Iterator[str]:
    cuts = [cell.variant for cell in report.cells if cell.variant.drop]
    if not cuts:
        return
    yield from (
        "--drop",
        ",".join(drop for drop in DROP_NAMES if any(cut.drop == drop for cut in cuts)),
    )
    yield from ("--fractions", ",".join(dict.fromkeys(cut.fraction for cut in cuts if cut.fraction)))
    kept = {cut.keep_last for cut in cuts}
    yield from ("--keep-last", "both" if len(kept) == 2 else "yes" if True in kept else "no")


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
