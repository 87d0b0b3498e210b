"""Tables on a narrow terminal, and lines that break between words."""

import sys

import pytest

from surgeon.cli import render
from surgeon.measure.document import Entry, Table

WIDE = Table(
    caption="Scores",
    columns=("model", *(f"a long name of task {number}" for number in range(5))),
    rows=tuple((Entry(name), *(Entry(f"{n}.5") for n in range(5))) for name in ("whole", "cut")),
)


@pytest.fixture
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setattr(render, "console", lambda: Console(width=80, highlight=False, markup=False))


@pytest.mark.usefixtures("eighty")
def test_a_table_too_wide_is_turned(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_document_table(WIDE)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["model", "whole", "cut"] in lines
    assert ["a", "long", "name", "of", "task", "4", "4.5", "4.5"] in lines


@pytest.mark.usefixtures("eighty")
def test_a_table_that_has_room_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    # 76 characters: only with less room between the columns
    columns = ("layers", *(f"attention {number}" for number in range(5)))
    grouped = Table(
        "Times", columns, (tuple(Entry("1") for _ in columns),), groups=(("", 1), ("ms", 5))
    )
    render.print_document_table(grouped)
    head = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["ms"] * 5 in head
    assert [word for n in range(5) for word in ("attention", str(n))] == head[3][1:]


def test_lines_break_between_words_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "every word of this line stays whole " * 5
    render.say(words)
    assert capsys.readouterr().out == f"{words}\n"
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    render.say(words)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert " ".join(lines).split() == words.split()
