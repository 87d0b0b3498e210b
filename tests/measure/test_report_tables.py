"""The tables, charts and sentences of a report, from numbers that are known."""

import math
from dataclasses import replace

import pytest
import reports

from surgeon.measure import paper
from surgeon.measure.charts import chart, file_name
from surgeon.measure.document import Entry, Table
from surgeon.measure.findings import cheapest, findings, headline
from surgeon.measure.grid import WHOLE, Variant, cut, grid
from surgeon.measure.repeat import cut_options, repeat_command
from surgeon.measure.report import document, facts
from surgeon.measure.results import Cell
from surgeon.measure.tables import beside, compared, cut_tables, format_score, kept_percent, overview
from surgeon.measure.written import markdown
from surgeon.plan import Plan


def texts(table: Table) -> list[list[str]]:
    return [[entry.text for entry in row] for row in table.rows]


def test_a_table_for_each_kind_of_cut_in_the_papers_layout() -> None:
    tables = list(cut_tables(reports.scores()))
    assert [table.caption for table in tables] == [
        "Blocks dropped (as Table 1 of the paper)",
        "Attention dropped (as Table 2 of the paper)",
        "MLP dropped (as Table 3 of the paper)",
        "Blocks dropped, last layer kept (as Table 4 of the paper)",
        "Attention dropped, last layer kept (as Table 5 of the paper)",
        "MLP dropped, last layer kept (as Table 6 of the paper)",
    ]
    attention = tables[1]
    assert attention.columns[:4] == ("model", "layers cut", "ARC", "HellaSwag")
    assert [row[0] for row in texts(attention)] == [f"made-up-{n} %" for n in (100, 90, 75, 66)]
    assert [row[1] for row in texts(attention)] == ["none", "3", "8", "11"]
    assert texts(attention)[3][2:] == ["50.9", "75.9", "36.9", "44.9", "52.2", "\N{MINUS SIGN}2.1"]
    assert attention.rows[3][2].spread == "1.4"


def test_losses_have_their_rise_and_perplexity() -> None:
    mlp = list(cut_tables(reports.losses()))[5]
    assert mlp.columns == ("model", "layers cut", "Loss, nats/token", "Perplexity", "change of loss")
    assert texts(mlp)[-1] == ["reference-66 %", "8", "4.568", "96.35", "+1.204"]


def test_a_unit_that_the_label_says_is_not_said_again() -> None:
    report = reports.losses()
    cells = tuple(replace(c, scores={"bits_per_byte": c.scores["loss"] / 2.6}) for c in report.cells)
    report = replace(report, measures=(reports.BITS,), cells=cells)
    assert next(cut_tables(report)).columns[2] == "Bits per byte"
    assert chart(report, reports.BITS).y_label == "Bits per byte"
    assert "bits per byte" not in markdown(document(report)).split("## Measures")[1]


def test_the_overview_marks_the_best_of_each_line() -> None:
    table = overview(reports.losses())
    assert table is not None
    rises = ["+0.712", "+0.669", "+2.548", "+1.204", "+1.614", "+0.990"]
    assert texts(table)[-1] == ["66 %", "8 of 24", *rises]
    best = [[entry.text for entry in row if entry.best] for row in table.rows]
    assert best == [["+0.022"], ["+0.077"], ["+0.351"], ["+0.553"], ["+0.669"]]
    higher = overview(reports.scores())
    assert higher is not None
    assert [entry.text for entry in higher.rows[-1] if entry.best] == ["\N{MINUS SIGN}2.1"] * 2


def test_headline_and_findings_of_the_reference_model() -> None:
    report = reports.losses()
    assert headline(report) == (
        "With the last layer kept, dropping attention in 8 of 24 layers costs 0.669 nats per token, "
        "MLPs 1.204, whole blocks 0.990."
    )
    assert list(findings(report)) == [
        "MLPs of as many layers cost 1.8 times as much as attention.",
        "Attention of 8 layers costs less than the MLPs of 6.",
        "When the last layer is cut as well, attention costs 0.712 instead of 0.669, MLPs cost 2.548 "
        "instead of 1.204, whole blocks cost 1.614 instead of 0.990.",
    ]


def test_headlines_of_the_papers_own_numbers() -> None:
    assert headline(paper.quality("llama-2-13b")) == (
        "Dropping attention in 13 of 40 layers costs 1.7 points, MLPs 10.3, whole blocks 13.1."
    )


def test_of_several_measures_the_one_hit_hardest_comes_first() -> None:
    report = reports.losses()
    story = replace(reports.TASKS[0], name="stories", label="Stories")
    scored = tuple(
        replace(cell, scores={**cell.scores, "stories": 50.0 - cell.variant.count})
        for cell in report.cells
    )
    report = replace(report, measures=(*report.measures, story), cells=scored)
    assert [measure.name for measure in compared(report)] == ["loss", "stories"]  # no perplexity
    loss = (
        "With the last layer kept, dropping attention in 8 of 24 layers costs 0.669 nats per token, "
        "MLPs 1.204, whole blocks 0.990."
    )
    stories = "dropping attention in 8 of 24 layers costs 8.0 points, MLPs 8.0, whole blocks 8.0."
    # 0.669 of 3.364 is more than 8 of 50
    assert headline(report) == f"Hit hardest, Loss: w{loss[1:]}"
    assert list(findings(report))[-1].startswith("Stories: ")
    assert list(findings(report))[-1].endswith(stories)
    assert document(report).about == "models/reference: scores after cuts"
    assert [drawn.name for drawn in document(report).charts()] == ["loss", "stories"]
    collapsed = [
        replace(cell, scores={**cell.scores, "stories": 1.0 if cell.variant.removed else 50.0})
        for cell in report.cells
    ]
    assert headline(replace(report, cells=tuple(collapsed))).startswith("Hit hardest, Stories: ")


def test_the_average_speaks_for_its_tasks() -> None:
    report = reports.scores()
    cells = tuple(replace(c, scores={**c.scores, "loss": 3.0 + c.variant.count}) for c in report.cells)
    report = replace(report, measures=(reports.LOSS, *report.measures), cells=cells)
    assert [measure.name for measure in compared(report)] == ["average", "loss"]
    assert headline(report).startswith("Average: ")


def test_the_cheapest_of_the_largest_cuts() -> None:
    best = cheapest(reports.losses())
    assert best is not None
    assert best.name == "attn last 8, last layer kept"
    assert cheapest(replace(reports.losses(), cells=())) is None


def test_nothing_is_no_loss() -> None:
    assert format_score(-0.0001, "nats/token") == "0.000"
    assert format_score(-0.04, "%", True) == "+0.0"


def test_a_score_that_gets_better_is_a_gain() -> None:
    report = reports.scores()
    cells = [
        replace(cell, scores={"average": 55.0}) if cell.variant.drop == "attn" else cell
        for cell in report.cells
    ]
    text = headline(replace(report, cells=tuple(cells)))
    assert "attention in 11 of 32 layers gains 0.8 points, MLPs cost 10.3, whole" in text


def test_cells_that_are_not_finished_say_so() -> None:
    report = reports.losses()
    *done, last_but_one, last = report.cells
    assert last.variant.name == "block last 8, last layer kept"
    odd = {"loss": math.nan, "perplexity": math.inf, "of another report": 1.0}
    cells = (*done, Cell(last_but_one.variant, {}), Cell(last.variant, odd))
    report = replace(report, cells=cells)
    blocks = list(cut_tables(report))[3]
    assert texts(blocks)[-2][2:] == ["not finished", "not finished", ""]
    assert texts(blocks)[-1][2:] == ["not finite", "not finite", ""]
    table = overview(report)
    assert table is not None
    assert table.rows[-2][-1] == Entry("not finished", missing=True)
    assert "2 of 31 cuts are not finished." in list(findings(report))
    assert headline(report).startswith("Dropping attention in 8 of 24 layers costs 0.712 nats")
    drawn = chart(report, report.measures[0])
    assert drawn is not None
    assert [len(line.points) for line in drawn.lines] == [6, 6, 6, 6, 6, 4]


def test_without_the_whole_model_nothing_is_compared() -> None:
    report = reports.losses()
    report = replace(report, cells=report.cells[1:])
    assert headline(report) == "Nothing is finished yet."
    drawn = chart(report, report.measures[0])
    assert drawn is not None
    assert drawn.level is None
    assert document(report).charts() == (drawn,)


def test_a_cut_of_another_making_has_a_table() -> None:
    report = reports.losses()
    plan = Plan.layers(24, "5,9-13", "attn")
    cells = (Cell(WHOLE, {"loss": 3.364}), Cell(cut(plan, "chosen by similarity"), {"loss": 3.559}))
    report = replace(report, cells=cells)
    (table,) = cut_tables(report)
    assert table.caption == "Cuts of another making"
    assert texts(table)[1] == ["chosen by similarity", "6", "3.559", "not finished", "+0.195"]
    assert headline(report) == (
        "Loss is 3.559 nats per token after chosen by similarity, 3.364 nats per token before."
    )
    assert overview(report) is None
    assert chart(report, report.measures[0]) is None


def test_beside_the_paper_stand_equal_cuts_of_equal_measures() -> None:
    theirs = paper.quality("llama-2-7b")
    assert beside(reports.losses(), theirs) is None
    table = beside(reports.scores(), theirs)
    assert table is not None
    assert len(table.rows) == 18
    minus = "\N{MINUS SIGN}"
    assert texts(table)[2] == ["attention", "66 %", "cut", f"{minus}2.1", f"{minus}1.8"]


def test_a_chart_starts_at_the_whole_model() -> None:
    report = reports.losses()
    drawn = chart(report, report.measures[0])
    assert drawn is not None
    assert drawn.level == (3.364, "whole model 3.364")
    assert [(line.name, line.dashed) for line in drawn.lines][:2] == [
        ("attention", False),
        ("attention, last layer kept", True),
    ]
    assert [point.x for point in drawn.lines[0].points] == [0, 1, 2, 4, 6, 8]
    assert drawn.lines[0].points[-1].words == "attn last 8: 4.076 nats per token"
    assert drawn.ticks[-1] == (8, "8", "33 %")


@pytest.mark.parametrize(
    ("value", "unit", "sign", "text"),
    [
        (54.349, "%", False, "54.3"),
        (-1.75, "%", True, "\N{MINUS SIGN}1.8"),
        (3.3636, "nats/token", False, "3.364"),
        (28.9, "", False, "28.90"),
        (4.2e9, "", False, "4.20e+09"),
    ],
)
def test_scores_have_the_digits_of_their_unit(value: float, unit: str, sign: bool, text: str) -> None:
    assert format_score(value, unit, sign) == text


@pytest.mark.parametrize(
    ("fraction", "kept"),
    [("10%", "90"), ("25%", "75"), ("33%", "66"), ("0.125", "87.5"), ("100%", "0")],
)
def test_cuts_are_named_by_what_is_kept(fraction: str, kept: str) -> None:
    assert kept_percent(fraction) == kept


def test_the_command_repeats_grid_settings_and_machine() -> None:
    assert repeat_command(reports.scores()) == (
        "surgeon sweep made-up --drop attn,mlp,block --fractions 10%,25%,33% --keep-last both "
        "--tasks openllm --limit 100 --include-path 'my tasks' --device cpu --dtype float32 -o REPORT"
    )


def test_the_command_of_single_cuts_names_their_layers() -> None:
    def options(*plans: Plan) -> list[str]:
        return [" ".join(words) for words in cut_options([WHOLE, *map(cut, plans)])]

    attention, mlp, block = (Plan.layers(24, "5,9-13", drop) for drop in ("attn", "mlp", "block"))
    other = Plan.layers(24, "7", "mlp")
    assert options(attention, mlp) == ["--drop attn,mlp --layers 5,9-13"]
    assert options(block) == ["--drop block --layers 5,9-13"]
    assert options(attention, other) == ["--drop attn --layers 5,9-13", "--drop mlp --layers 7"]
    assert options(Plan(24, attention.removed | other.removed)) == [], "no option says that"
    assert options() == [""]
    third = grid(24, ("attn",), ("33%",), "no")
    assert [" ".join(words) for words in cut_options([*third, cut(other)])] == [
        "--drop attn --fractions 33% --keep-last no",
        "--drop mlp --layers 7",
    ]


def test_the_command_names_the_model_as_it_was_asked_for() -> None:
    report = reports.losses("org/name")
    pinned = replace(report, subject=replace(report.subject, revision="0a1b"))
    assert repeat_command(pinned).startswith("surgeon sweep org/name@0a1b --drop")
    assert repeat_command(pinned, "org/name@main").startswith("surgeon sweep org/name@main --drop")
    assert repeat_command(report, "my models/name").startswith("surgeon sweep 'my models/name' --drop")


def test_facts_of_nested_settings() -> None:
    settings = {"text": {"files": ["a", "b"], "stride": None}, "limit": 0, "greedy": True}
    assert list(facts(settings)) == [("text, files", "a, b"), ("limit", "0"), ("greedy", "yes")]


def test_names_of_files() -> None:
    assert file_name("mmlu") == "mmlu"
    assert file_name("../a b/<c>") == "a-b-c"
    assert file_name("/") == "score"


def test_tables_of_uneven_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in width"):
        Table("t", ("a", "b"), ((Entry("1"),),))


def test_variants_of_the_same_name_do_not_collide() -> None:
    report = reports.losses()
    twins = tuple(
        Cell(Variant("same", c.variant.removed, count=1), c.scores) for c in report.cells[1:3]
    )
    (table,) = cut_tables(replace(report, cells=(report.cells[0], *twins)))
    assert [row[0] for row in texts(table)] == ["reference-100 %", "same", "same"]
