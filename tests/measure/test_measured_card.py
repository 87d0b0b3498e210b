"""What was measured, in the model card."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import surgeon
from surgeon.card import MEASURED_BEGIN, MEASURED_END
from surgeon.checkpoint.source import open_checkpoint
from surgeon.errors import SurgeonError
from surgeon.measure.card import MEASURED, refresh_card
from surgeon.measure.grid import WHOLE, cut
from surgeon.measure.opened import fingerprint
from surgeon.measure.results import Cell, Measure, Report, Subject
from surgeon.plan import Plan

ARC = Measure("arc_challenge", "ARC-Challenge", "%", True, "25-shot acc_norm")
LOSS = Measure("loss", "loss", "nats/token", False)
PLAN = Plan.last(12, 4, "attn", True)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    surgeon.prune("sample", tmp_path / "out", PLAN)
    return tmp_path / "out"


def report(model: str | Path, *cells: Cell) -> Report:
    checkpoint = open_checkpoint(model)
    subject = Subject(
        model=checkpoint.source.name,
        revision=None,
        fingerprint=fingerprint(checkpoint),
        num_layers=12,
        parameters=1_000_000,
        dtype="float32",
        device="cpu",
        versions={"torch": "2.13.0"},
    )
    settings = {"tasks": ["arc_challenge:25"], "limit": 100, "include_path": "/home/me/tasks"}
    return Report(subject, settings, (ARC, LOSS), cells)


def put(folder: Path, found: Report) -> None:
    (folder / MEASURED).write_text(json.dumps(found.to_json()))


def test_of_a_grid_the_cell_that_is_this_cut(out: Path) -> None:
    """A sweep's report beside a cut: the whole model and this cut stand there, and no other."""
    other = cut(Plan.last(12, 4, "mlp"))
    cells = (
        Cell(WHOLE, {"arc_challenge": 53.11, "loss": 3.0}, {"arc_challenge": 1.46}),
        Cell(other, {"arc_challenge": 11.0, "loss": 9.0}),
        Cell(cut(PLAN), {"arc_challenge": 51.2, "loss": 3.25}, {"arc_challenge": 1.5}),
    )
    put(out, report("sample", *cells))
    assert refresh_card(out)
    card = (out / "README.md").read_text()
    assert "| ARC-Challenge, 25-shot acc_norm, % | 53.11 ± 1.46 | 51.20 ± 1.50 | -1.91 |" in card
    assert "| loss, nats/token | 3.0000 | 3.2500 | +0.25 |" in card
    assert "11.00" not in card
    assert "In float32 on cpu. **Only the first 100 documents of each task.**" in card
    assert "Settings: tasks arc_challenge:25, limit 100. ± is one standard error." in card
    assert "Measured with torch 2.13.0." in card
    assert "/home/me" not in card
    assert surgeon.verify(out, "sample").ok


def test_a_result_of_the_cut_model_itself(out: Path) -> None:
    put(out, report(out, Cell(WHOLE, {"arc_challenge": 51.2, "loss": 3.25})))
    assert refresh_card(out)
    card = (out / "README.md").read_text()
    assert "| | this model |\n|---|---|\n| ARC-Challenge, 25-shot acc_norm, % | 51.20 |\n" in card


def test_every_other_line_of_the_card_is_the_publishers(out: Path) -> None:
    card = out / "README.md"
    edited = "# Mine\n\n" + card.read_text().replace("## Limits", "## Limits and other words") + "bye"
    card.write_text(edited)
    before, _, rest = edited.partition(MEASURED_BEGIN)
    after = rest.partition(MEASURED_END)[2]
    for score in (1.0, 2.0):
        put(out, report(out, Cell(WHOLE, {"arc_challenge": score})))
        assert refresh_card(out)
        now = card.read_text()
        assert now.startswith(before + MEASURED_BEGIN)
        assert now.endswith(MEASURED_END + after)
        assert f"| {score:.2f} |" in now
    assert "| 1.00 |" not in now


def test_cards_that_are_left_alone(out: Path) -> None:
    card = out / "README.md"
    whole = card.read_bytes()
    assert not refresh_card(out)  # there is no measured.json
    assert card.read_bytes() == whole
    put(out, report(out, Cell(WHOLE, {"loss": 1.0})))
    for text in ("# my own card\n", f"{MEASURED_BEGIN}\nno end", f"{MEASURED_END}{MEASURED_BEGIN}"):
        card.write_text(text)
        assert not refresh_card(out)
        assert card.read_text() == text
    card.unlink()
    assert not refresh_card(out)


@pytest.mark.parametrize("fault", ["another cut", "another model", "not finished", "no report"])
def test_a_result_of_something_else_is_refused(fault: str, out: Path) -> None:
    whole = Cell(WHOLE, {"loss": 1.0})
    if fault == "another cut":
        put(out, report("sample", whole, Cell(cut(Plan.last(12, 3)), {"loss": 2.0})))
    elif fault == "another model":
        found = report("sample", whole, Cell(cut(PLAN), {"loss": 2.0}))
        put(out, replace(found, subject=replace(found.subject, model="me/other")))
    elif fault == "not finished":
        put(out, report("sample", whole, Cell(cut(PLAN), {})))
    else:
        (out / MEASURED).write_text('{"format": 1}')
    before = (out / "README.md").read_bytes()
    with pytest.raises(SurgeonError, match=r"measured\.json: (has no result of|is not a report)"):
        refresh_card(out)
    assert (out / "README.md").read_bytes() == before
