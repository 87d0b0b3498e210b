"""The page as a reader has it: in a real browser, on a telephone and a wide screen, light and dark."""

import re
from dataclasses import replace
from pathlib import Path

import browsers
import pytest
import reports

from surgeon.measure import paper
from surgeon.measure.page import html_page
from surgeon.measure.report import document
from surgeon.measure.results import Cell

HOSTILE = "<script>alert(1)</script>|\"'&`*/" + "long" * 40


def page(report=None, beside=None) -> str:
    return html_page(document(report or reports.losses(), beside))


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_overflow(tmp_path: Path, width: int) -> None:
    beside = paper.quality("llama-2-7b")
    found = browsers.look(page(reports.scores(), beside), tmp_path, width, dark=width == 390)
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["outside"] == []
    assert found["letters"] >= 10
    assert found["charts"] == 6  # the average, four tasks, the paper's average: one drawing of each
    assert found["paths"] == [6] * 6
    assert found["unnamed"] == 0
    assert found["captions"] == found["tables"] == 1 + 6 + 1 + 1 + 6
    assert found["requests"] == 0
    assert found["background"] == ("rgb(21, 24, 28)" if width == 390 else "rgb(255, 255, 255)")


def test_a_browser_shows_all_numbers_and_hostile_names_as_text(tmp_path: Path) -> None:
    report = reports.losses(HOSTILE)
    found = browsers.look(page(report), tmp_path)
    assert found["scroll"] <= found["inner"]
    assert HOSTILE in found["text"]
    for cell in report.cells:
        assert f"{cell.scores['loss']:.3f}" in found["text"]
        assert f"{cell.scores['perplexity']:.2f}" in found["text"]
    for rises in reports.RISES.values():
        for rise in rises:
            assert f"+{rise:.3f}" in found["text"]


def test_a_browser_shows_the_deepest_model_and_many_fractions(tmp_path: Path) -> None:
    report = reports.scores(405, tuple(f"{n}%" for n in range(1, 61)))
    found = browsers.look(page(report), tmp_path)
    assert found["scroll"] <= found["inner"]
    assert found["outside"] == []


def test_the_page_needs_nothing_else() -> None:
    text = page(beside=paper.quality("llama-2-13b"))
    assert "default-src 'none'" in text
    assert not re.search(r"<(script|link|img|iframe|object)|@import|url\(|\ssrc=", text)
    assert set(re.findall(r'https?://[^"<\s]+', text)) == {
        "http://www.w3.org/2000/svg",
        "https://arxiv.org/abs/2407.15516",
    }


def test_every_text_is_escaped() -> None:
    report = reports.losses(HOSTILE)
    measures = tuple(replace(m, label=f"<b>{m.label}", detail="<i>") for m in report.measures)
    cells = tuple(replace(c, variant=replace(c.variant, name="<u>cut")) for c in report.cells)
    subject = replace(report.subject, revision="<rev>", device="<dev>", versions={"<v>": "<w>"})
    settings = {"<key>": ["<value>"], "text": ["</style><script>"]}
    text = page(replace(report, subject=subject, measures=measures, cells=cells, settings=settings))
    assert not re.search(r"<(b|i|u|rev|dev|v|w|key|value|script)>", text)
    assert text.count("</style>") == 1


def test_no_line_ends_between_a_number_and_its_unit() -> None:
    told = replace(document(reports.losses()), headline="14.0 % of 5 ms & 2 GB, 3 small ones")
    nbsp = "\N{NO-BREAK SPACE}"
    assert f"<h1>14.0{nbsp}% of 5{nbsp}ms &amp; 2{nbsp}GB, 3 small ones</h1>" in html_page(told)


def test_the_papers_numbers_are_marked_as_the_papers() -> None:
    text = page(beside=paper.quality("llama-2-7b"))
    quoted = text[text.index('<section class="quoted">') :]
    assert "Printed elsewhere, not measured here" in quoted[:200]
    assert "Llama-2-7B" not in text[: text.index('<section class="quoted">')]
    assert "Llama-2-7B" not in page()


def test_a_report_without_any_cut() -> None:
    report = reports.losses()
    text = page(replace(report, cells=report.cells[:1]))
    assert "Loss of the whole model is 3.364 nats per token." in text
    assert "<svg" not in text


def test_nothing_finished() -> None:
    report = reports.losses()
    text = page(replace(report, cells=tuple(Cell(cell.variant, {}) for cell in report.cells)))
    assert "Nothing is finished yet." in text
    assert text.count("not finished</em>") >= len(report.cells)
