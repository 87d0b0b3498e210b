"""The REPORT folder: complete, replaced file by file, read again."""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import reports

from surgeon.errors import SurgeonError
from surgeon.measure.files import read_report, write_file, write_report
from surgeon.measure.paper import quality
from surgeon.measure.results import Cell


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = reports.scores()
    names = write_report(report, tmp_path / "deep" / "REPORT")
    assert set(names) == {path.name for path in (tmp_path / "deep" / "REPORT").iterdir()}
    assert {"report.json", "report.md", "index.html", "average.svg", "mmlu.svg"} <= set(names)
    assert read_report(tmp_path / "deep" / "REPORT") == report
    assert read_report(tmp_path / "deep" / "REPORT" / "report.json") == report


def test_scores_that_are_no_numbers_are_null(tmp_path: Path) -> None:
    report = reports.losses()
    odd = Cell(report.cells[1].variant, {"loss": math.nan, "perplexity": math.inf})
    write_report(replace(report, cells=(report.cells[0], odd)), tmp_path)
    text = (tmp_path / "report.json").read_text("utf-8")
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert data["cells"][1]["scores"] == {"loss": None, "perplexity": None}
    again = read_report(tmp_path)
    write_report(again, tmp_path)
    assert (tmp_path / "report.json").read_text("utf-8") == text


def test_figures_are_well_formed_and_the_same_each_time(tmp_path: Path) -> None:
    names = write_report(reports.losses(), tmp_path / "a", quality("llama-2-7b"))
    write_report(reports.losses(), tmp_path / "b", quality("llama-2-7b"))
    assert {"loss.svg", "paper-average.svg"} <= set(names)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        if name.endswith(".svg"):
            ElementTree.parse(tmp_path / "a" / name)


def test_papers_get_their_figures_as_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert {"loss.png", "loss.svg"} <= set(write_report(reports.losses(), tmp_path))
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_needs_no_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    names = write_report(reports.losses(), tmp_path)
    assert names == ("report.json", "report.md", "index.html", "loss.svg")


def test_the_markdown_ends_with_how_to_repeat_it(tmp_path: Path) -> None:
    write_report(reports.losses("odd | *name*"), tmp_path)
    text = (tmp_path / "report.md").read_text("utf-8")
    assert text.startswith(
        "# With the last layer kept, dropping attention in 8 of 24 layers costs 0.669"
    )
    assert "| 66 % | 8 of 24 | +0.712 | **+0.669** | +2.548 | +1.204 | +1.614 | +0.990 |" in text
    assert "| odd \\| \\*name\\*-66 % | 8 | 4.076 | 58.91 | +0.712 |" in text
    assert "](loss.svg)" in text
    start = text.index("## To repeat")
    assert text[start:].startswith(
        "## To repeat\n\n```sh\nsurgeon sweep 'odd | *name*' --drop attn,mlp"
    )
    assert text.endswith("-o REPORT\n```\n")


def test_writing_fails_in_one_line_and_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(SurgeonError, match=r"report.json: cannot be written"):
        write_report(reports.losses(), tmp_path / "file")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(SurgeonError, match=r"folder: cannot be written"):
        write_file(tmp_path / "folder", b"new")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "is not a report of surgeon"),
        ('{"format": 99}', "is of format 99"),
        ('{"format": 1}', "is not a report of surgeon"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(SurgeonError, match=words):
        read_report(tmp_path)
