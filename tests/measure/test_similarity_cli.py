"""surgeon similarity: what it prints and writes, what it refuses, and the way from there to a cut."""

import json
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import checkpoints
import pytest
from checkpoints import Outcome, assert_refused, digest
from similarities import made

import surgeon
from surgeon.measure.chart import bar, chart
from surgeon.measure.similarity import nines, read_similarity
from surgeon.measure.similarity_files import write_similarity

pytest.importorskip("torch")
pytest.importorskip("transformers")

Cli = Callable[..., Outcome]


@pytest.fixture
def prose(tmp_path: Path) -> Path:
    path = tmp_path / "prose.txt"
    path.write_text("The youngest son set out into the wide world. " * 10)
    return path


def test_from_the_measurement_to_the_cut(prose: Path, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("matplotlib")
    place = tmp_path / "sim"
    options = ("--text", prose, "--tokens", 80, "--device", "cpu")
    outcome = cli("similarity", "sample", *options, "-o", place)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(
        "sample: cosine similarity before and after, over 80 tokens of prose.txt\n"
    )
    assert "Run of 4 layers that turns the stream least: " in outcome.out
    assert f"--drop attn --count 4 --by {place} -o OUT" in outcome.out
    assert max(map(len, outcome.out.splitlines()[1:15])) <= 80
    assert sorted(path.name for path in place.iterdir()) == [
        "similarity.json",
        "similarity.png",
        "similarity.svg",
    ]
    found, _ = read_similarity(place)
    again = cli("similarity", "sample", *options, "--json")
    assert json.loads(again.out) == json.loads((place / "similarity.json").read_text())
    assert json.loads(again.out)["kind"] == "surgeon similarity"
    cut = cli("prune", "sample", "--count", 4, "--by", place, "--keep-last", "-o", tmp_path / "out")
    assert cut.code == 0
    report = surgeon.prune("sample", tmp_path / "o", count=4, by=found, keep_last=True, dry_run=True)
    assert report.why[1] == "measured on sample, 80 tokens of prose.txt"
    assert f"  {report.why[0]}\n  {report.why[1]}\n" in cut.out
    assert surgeon.verify(tmp_path / "out", "sample").ok


def test_own_samples_are_the_default(cli: Cli) -> None:
    outcome = cli("similarity", "sample", "--tokens", 24, "--device", "cpu")
    assert outcome.code == 0
    assert "over 23 tokens of the model's own samples" in outcome.out
    assert outcome.out.endswith(
        "Next: the same with -o DIR, for figures and for surgeon prune --count N --by DIR\n"
    )


def test_a_folder_of_another_model_is_left_alone(prose: Path, tmp_path: Path, cli: Cli) -> None:
    pytest.importorskip("matplotlib")
    write_similarity(made([0.9], [0.8]), tmp_path / "sim")
    before = digest(tmp_path / "sim")
    args = ("similarity", "sample", "--text", prose, "-o")
    assert_refused(cli(*args, tmp_path / "sim"), "is of another model, model")
    assert digest(tmp_path / "sim") == before
    assert_refused(cli(*args, prose), "is a file")
    (tmp_path / "sim" / "similarity.json").write_text("{}")
    assert_refused(cli(*args, tmp_path / "sim"), "is not a file of surgeon similarity")


def test_without_matplotlib_nothing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr("surgeon.measure.compare.similarity", None)
    assert_refused(cli("similarity", "sample", "-o", tmp_path / "sim"), "surgeon[plots]")


def test_what_is_wrong_takes_one_line(prose: Path, tmp_path: Path, cli: Cli) -> None:
    assert_refused(cli("similarity", tmp_path / "none"), "no such folder")
    assert_refused(cli("similarity", "sample", "--low-memory"), "--low-memory needs --text")
    assert_refused(cli("similarity", "sample", "--text", tmp_path / "none"), "cannot be read")
    quantized = checkpoints.make(tmp_path / "gptq", gptq=True, hidden=32, mlp=64)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        sample = Path(surgeon.__file__).parent / "sample"
        (quantized / file).write_bytes((sample / file).read_bytes())
    assert_refused(
        cli("similarity", quantized, "--text", prose, "--low-memory", "--device", "cpu"),
        "token",
    )


def test_bars() -> None:
    assert bar(1.0, 4) == "████"
    assert bar(0.0, 4) == ""
    assert bar(0.5 + 1 / 32, 4) == "██▏"
    assert (bar(2.0, 4), bar(-1.0, 4)) == ("████", "")
    assert [nines(v) for v in (0.0, 0.9, 0.99, 1.0)] == pytest.approx([0, 1, 2, 6])


def test_a_chart_fits_80_columns_and_shows_what_is_missing() -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=StringIO())
    console.print(chart(made([0.9, None] * 60, [0.8, 0.95] * 60)))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert len(lines) == 121
    assert lines[-1].startswith("119  ·  ")
    assert lines[1].count("0.9000") == 1
