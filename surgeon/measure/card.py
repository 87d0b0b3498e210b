"""What was measured, in the model card: a section of README.md, made of the measured.json beside it.

It stands between two HTML comments that every card of ``prune`` has. What is between them is surgeon's;
every other line is the publisher's and stays as it is, and so does a card without the comments.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from surgeon.card import MEASURED_BEGIN, MEASURED_END
from surgeon.checkpoint.source import Checkpoint, expand, open_checkpoint, read_json
from surgeon.checkpoint.staging import SURGERY
from surgeon.errors import SurgeonError
from surgeon.measure.results import Cell, Measure, Report
from surgeon.plan import Plan

MEASURED = "measured.json"
"""A report of surgeon, put beside the model that it is about."""

CARD = "README.md"

_PRIVATE = ("include_path",)
"""Settings that say how someone's disk is laid out."""


def refresh_card(folder: str | os.PathLike[str]) -> bool:
    """Brings the section of a pruned folder's card up to date; whether there is one now.

    False, and nothing changes, without a measured.json or without a card that has the comments.
    SurgeonError if measured.json is no report, or is not about this model.
    """
    place = expand(folder)
    card = Path(place) / CARD
    if not (Path(place) / MEASURED).is_file() or not card.is_file():
        return False
    old = card.read_text(encoding="utf-8")
    if (old.count(MEASURED_BEGIN), old.partition(MEASURED_BEGIN)[2].count(MEASURED_END)) != (1, 1):
        return False
    new = with_section(old, section(open_checkpoint(place)))
    if new != old:
        beside = card.with_name(f".{CARD}.new")
        beside.write_text(new, encoding="utf-8")
        os.replace(beside, card)
    return True


def with_section(card: str, text: str) -> str:
    """A card with ``text`` between its comments, and not a byte changed elsewhere."""
    head, _, rest = card.partition(MEASURED_BEGIN)
    _, _, tail = rest.partition(MEASURED_END)
    return f"{head}{MEASURED_BEGIN}\n{text}{MEASURED_END}{tail}"


def section(checkpoint: Checkpoint) -> str:
    """The section for a pruned folder that has a measured.json, as Markdown."""
    where = checkpoint.source.where(MEASURED)
    report = Report.from_json(read_json(checkpoint.source, MEASURED), where)
    whole, own = _cells(report, checkpoint, where)
    rows = "\n".join(_row(measure, whole, own) for measure in report.measures)
    columns = "whole model | this model | change" if whole else "this model"
    line = "|---" * (4 if whole else 2) + "|"
    subject = report.subject
    return f"""
## Measured

| | {columns} |
{line}
{rows}

In {subject.dtype} on {_word(subject.device)}. {" ".join(_settings(report))}
"""


def _cells(report: Report, checkpoint: Checkpoint, where: str) -> tuple[Cell | None, Cell]:
    """The cells of the uncut model, if it was measured, and of this one.

    A report of this very folder is known by its fingerprint. One of the source is known by the name and
    revision that surgery.json has: the weights that went are not here to be looked at.
    """
    from surgeon.measure.opened import fingerprint

    record = read_json(checkpoint.source, SURGERY)
    plan, source = Plan.from_json(record["plan"]), record["source"]
    subject = report.subject
    cells = {cell.variant.removed: cell for cell in report.cells if cell.scores}
    nothing = cells.get(frozenset())
    if nothing is not None and subject.fingerprint == fingerprint(checkpoint):
        return None, nothing
    known = (subject.model, subject.revision, subject.num_layers)
    own = cells.get(plan.removed)
    if own is not None and known == (source["model"], source["revision"], plan.num_layers):
        return nothing, own
    raise SurgeonError(
        f"{where}: has no result of this model, but of {subject.model}; measure this one with "
        "surgeon eval -o, or remove the file"
    )


def _row(measure: Measure, whole: Cell | None, own: Cell) -> str:
    words = ", ".join(w for w in (measure.label, measure.detail, measure.unit) if w)
    now = _figure(own, measure)
    if whole is None:
        return f"| {_word(words)} | {now} |"
    before, after = (cell.scores.get(measure.name) for cell in (whole, own))
    change = "" if before is None or after is None else f"{after - before:+.3g}"
    return f"| {_word(words)} | {_figure(whole, measure)} | {now} | {change} |"


def _figure(cell: Cell, measure: Measure) -> str:
    score, spread = cell.scores.get(measure.name), cell.stderr.get(measure.name)
    if score is None:
        return "-"
    digits = 2 if measure.unit == "%" else 4
    return f"{score:.{digits}f}" + (f" ± {spread:.{digits}f}" if spread is not None else "")


def _settings(report: Report) -> Iterator[str]:
    limit = report.settings.get("limit")
    if limit:
        yield f"**Only the first {limit} documents of each task.**"
    plain = {
        key: value
        for key, value in report.settings.items()
        if key not in _PRIVATE and value is not None and not isinstance(value, dict)
    }
    yield "Settings: " + ", ".join(f"{key} {_word(value)}" for key, value in plain.items()) + "."
    if any(cell.stderr for cell in report.cells):
        yield "± is one standard error."
    versions = (f"{name} {version}" for name, version in report.subject.versions.items())
    yield _word("Measured with " + ", ".join(versions) + ".")


def _word(value: Any) -> str:
    """A setting on one line of a table; of a path the last part."""
    if isinstance(value, list | tuple):
        return " ".join(_word(one) for one in value)
    text = str(value)
    text = text.rpartition("/")[2] if text.startswith(("/", "./", "~", "..")) else text
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
