"""Statistics, comparisons and tables of times, on numbers that are worked out by hand."""

import json
import statistics
from dataclasses import replace

import pytest

from surgeon.accounting import Costs
from surgeon.errors import SurgeonError
from surgeon.measure.grid import WHOLE, grid
from surgeon.measure.latency.files import check_same, locked, read, save
from surgeon.measure.latency.report import document, headline
from surgeon.measure.latency.tables import figures_table, layout_tables
from surgeon.measure.latency.turns import todo
from surgeon.measure.latency.values import Bench, Cell, Task, Timing, parse_tasks
from surgeon.measure.results import Subject

PREFILL, DECODE = Task("prefill", 50), Task("decode", 4000, 16)
GRID = grid(32, fractions=("33%",), keep_last="no")
SUBJECT = Subject("llama-2-7b", None, "f", 32, 100, "float16", "a GPU", {"torch": "2"})
SETTINGS = {
    "shape": "llama-2-7b",
    "runtime": "transformers",
    "mode": "eager",
    "device": "cuda",
    "sequences": 1000,
    "tokens": 30,
    "warmup": 8,
    "later_warmup": 2,
    "rounds": 10,
    "decode_rounds": 3,
    "peak_bytes": "all of it",
}
COSTS = Costs(100, 2000, 200, 30)


def times(median, first_pass=None):
    return Timing(3, median, median, median, 0.0, median / 2, 8, first_pass)


def made(*cells):
    """A report of (variant, task, median) triples."""
    built = tuple(Cell(v, t, times(ms, ms), 10**9, 0.5, 1.0) for v, t, ms in cells)
    return Bench(SUBJECT, SETTINGS, {v.name: COSTS for v in GRID}, built)


def test_statistics():
    values = [float(n) for n in range(1, 102)]
    timing = Timing.of(values[::-1], warmup=8, first_pass=7.0)
    assert (timing.count, timing.mean, timing.median, timing.p95) == (101, 51.0, 51.0, 96.0)
    assert timing.stdev == pytest.approx(statistics.stdev(values))
    assert (timing.fastest, timing.warmup, timing.first_pass) == (1.0, 8, 7.0)
    single = Timing.of([4.0], 0)
    assert (single.mean, single.median, single.p95, single.stdev) == (4.0, 4.0, 4.0, 0.0)


@pytest.mark.parametrize(
    ("lengths", "decode", "names"),
    [
        ("50,100", "none", ["prefill 50", "prefill 100"]),
        ("none", "100x1, 4000x16", ["decode 100 x1", "decode 4000 x16"]),
        ("7,7", "", ["prefill 7"]),
    ],
)
def test_tasks(lengths, decode, names):
    assert [task.name for task in parse_tasks(lengths, decode)] == names


@pytest.mark.parametrize(
    ("lengths", "decode", "words"),
    [
        ("none", "none", "nothing to time"),
        ("0", "none", "--lengths '0'"),
        ("50;100", "none", "write 50,100"),
        ("50", "100", "--decode '100'"),
        ("50", "100x0", "--decode '100x0'"),
        ("-5", "none", "--lengths '-5'"),
    ],
)
def test_tasks_that_are_none(lengths, decode, words):
    with pytest.raises(SurgeonError, match=words):
        parse_tasks(lengths, decode)


def test_improvement_is_against_all_turns_of_the_whole_model():
    attn = GRID[1]
    report = made((WHOLE, PREFILL, 10.0), (attn, PREFILL, 8.0), (WHOLE, PREFILL, 11.0))
    assert report.baseline(PREFILL) == 10.5
    assert report.improvement(attn, PREFILL) == pytest.approx(100 * (1 - 8 / 10.5))
    assert report.drift(PREFILL) == pytest.approx(100 * 1 / 10.5)
    assert report.improvement(WHOLE, PREFILL) is None
    assert report.improvement(GRID[2], PREFILL) is None
    assert report.baseline(DECODE) is None
    assert made((WHOLE, PREFILL, 10.0)).drift(PREFILL) is None


def test_the_paper_stands_beside():
    report = made(
        (WHOLE, PREFILL, 20.0),
        *((v, PREFILL, ms) for v, ms in zip(GRID[1:], (15.0, 19.0, 13.0), strict=True)),
    )
    (table,) = layout_tables(report)
    assert "Table 7" in table.caption
    assert table.groups == (("", 1), ("attention", 3), ("MLP", 3), ("blocks", 3))
    rows = [[entry.text for entry in row] for row in table.rows]
    assert rows[0] == ["100 %", *["20.00", "", ""] * 3]
    # the last column of each kind is the paper's Table 7, 66 %
    assert rows[1] == [
        "66 %",
        *("15.00", "25.0 %", "21.5 %"),
        *("19.00", "5.0 %", "7.0 %"),
        *("13.00", "35.0 %", "33.0 %"),
    ]
    assert "not measured here" in table.note
    assert "25.0 % faster without attention in 11 of 32 layers" in headline(report)


def test_a_slower_cut_is_called_so_and_drift_is_held_against_gains():
    report = made(
        (WHOLE, PREFILL, 20.0),
        *((v, PREFILL, ms) for v, ms in zip(GRID[1:], (25.0, 19.0, 15.0), strict=True)),
    )
    words = "25.0 % slower without attention{}, 5.0 % faster without MLP, 25.0 % without blocks"
    said = "\n".join(document(report).sections[0].parts[0].paragraphs)
    assert said == f"One token after a prompt of 50: 20.00 ms; in 11 layers, {words.format('')}."
    assert headline(report).endswith(words.format(" in 11 of 32 layers"))
    apart = made(*((c.variant, c.task, c.timing.median) for c in report.cells), (WHOLE, PREFILL, 22.0))
    _, drift = document(apart).sections[0].parts[0].paragraphs
    assert "own turns differ by 9.5 %, so changes below that say nothing" in drift
    told = "19.0 % slower without attention in 11 of 32 layers, 28.6 % faster without blocks"
    assert headline(apart).endswith(f": {told}")
    lost = made(*((c.variant, c.task, c.timing.median) for c in report.cells), (WHOLE, PREFILL, 32.0))
    assert headline(lost).endswith(
        "cuts change less than the 46.2 % that the whole model itself varies"
    )


def test_a_table_that_is_not_finished():
    report = made((WHOLE, PREFILL, 20.0), (GRID[1], PREFILL, 15.0), (GRID[2], DECODE, 1.0))
    first, second = layout_tables(report)
    assert [entry.missing for entry in first.rows[1]][4]
    assert second.caption.startswith("Decode, 4,000 cached, batch 16")
    assert second.rows[0][1].missing
    document(report)


def test_every_figure_of_every_turn():
    report = made((WHOLE, DECODE, 20.0), (GRID[1], DECODE, 15.5), (WHOLE, DECODE, 20.0))
    table = figures_table(report, DECODE)
    assert [row[0].text for row in table.rows] == ["whole, turn 1", "whole, turn 2", "attn last 11"]
    assert "first pass" in table.columns
    assert [e.text for e in table.rows[2]][1:] == [
        *("15.50", "15.50", "15.50", "0.000", "7.750", "15.50", "3", "22.5 %", "1 GB")
    ]
    assert table.columns[5] == "fastest"
    assert table.note == "The whole model's turns differ by 0.0 %."


@pytest.mark.parametrize(
    ("settings", "said", "not_said"),
    [
        (
            SETTINGS,
            (
                "shared out to 10 rounds",
                "and 2 in each other",
                "in each of 3 rounds",
                "every other round",
            ),
            ("one before the cuts",),
        ),
        (
            {key: value for key, value in SETTINGS.items() if "rounds" not in key},
            ("one by one, after 8 runs of warm-up.", "one before the cuts and one after them"),
            ("round", "fastest"),
        ),
    ],
)
def test_each_way_of_measuring_has_its_words(settings, said, not_said):
    report = replace(made((WHOLE, PREFILL, 20.0), (WHOLE, DECODE, 20.0)), settings=settings)
    (section,) = (s for s in document(report).sections if s.title == "How it was measured")
    text = " ".join(section.parts[0].paragraphs)
    assert all(words in text for words in said)
    assert not any(words in text for words in not_said)


def test_what_is_left_to_do():
    tasks = (PREFILL, DECODE)
    everything = [(WHOLE, tasks), *((v, tasks) for v in GRID[1:]), (WHOLE, tasks)]
    assert todo(made(), GRID, tasks) == everything
    some = made((WHOLE, PREFILL, 1.0), *((v, PREFILL, 1.0) for v in GRID[1:]), (GRID[1], DECODE, 1.0))
    assert todo(some, GRID, tasks) == [
        (WHOLE, (DECODE,)),
        *((v, (DECODE,)) for v in GRID[2:]),
        (WHOLE, (DECODE,)),
    ]
    assert todo(some, GRID, (PREFILL,)) == []
    assert todo(made(), (WHOLE,), tasks) == [(WHOLE, tasks)]


def test_files(tmp_path):
    assert read(tmp_path / "none") is None
    report = made((WHOLE, PREFILL, 20.0), (GRID[1], PREFILL, 15.0))
    save(report, tmp_path / "out")
    assert read(tmp_path / "out") == report
    text = (tmp_path / "out" / "bench.md").read_text()
    assert (
        "surgeon bench --shape llama-2-7b --drop attn --fractions 33% --keep-last no "
        "--runtime transformers --lengths 50 --decode none --sequences 1000 --tokens 30 "
        "--dtype float16 --device cuda\n"
    ) in text
    assert "a GPU" in text
    assert "<svg" in (tmp_path / "out" / "index.html").read_text()
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_other_settings_do_not_mix(tmp_path):
    report = made((WHOLE, PREFILL, 20.0))
    check_same(report, made(), tmp_path)
    other = Bench(SUBJECT, {**SETTINGS, "sequences": 5}, {}, ())
    with pytest.raises(SurgeonError, match="sequences 1000, not 5; choose another"):
        check_same(report, other, tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a report of surgeon bench"),
        ('{"format": 2}', "is of format 2"),
        ('{"format": 1, "subject": {}}', "is not a report"),
    ],
)
def test_files_that_are_no_report(tmp_path, text, words):
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(SurgeonError, match=words):
        read(tmp_path)


def test_a_folder_is_held_against_a_second_run(tmp_path):
    folder = tmp_path / "new" / "out"
    with locked(folder):
        assert folder.is_dir()
        with pytest.raises(SurgeonError, match="another run is writing it"), locked(folder):
            pass
    assert not folder.exists()  # nothing came into it
    with locked(folder):
        save(made((WHOLE, PREFILL, 20.0)), folder)
    with locked(folder):
        assert read(folder) is not None
    with locked(None), locked(folder / "bench.json"):  # a file, of which ``read`` tells
        pass
    with pytest.raises(SurgeonError, match="Not a directory"), locked(folder / "bench.json" / "deeper"):
        pass


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "index.html").write_text("a sweep's")
    with pytest.raises(SurgeonError, match=r"no bench\.json; choose another folder"):
        read(tmp_path)


def test_json_is_json():
    report = made((WHOLE, DECODE, 20.0), (GRID[3], DECODE, 12.0))
    assert Bench.from_json(json.loads(json.dumps(report.to_json())), "here") == report
