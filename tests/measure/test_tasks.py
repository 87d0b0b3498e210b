"""Tasks of lm-evaluation-harness: the scores of virtual cuts are the harness's own, to the last digit.

The four small tasks of harness_tasks/ hold each kind of request that the harness knows.
"""

import json
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checkpoints import Outcome, assert_refused

import surgeon
from surgeon.measure.harness import OPENLLM, Wanted, load_tasks, parse_tasks, quiet
from surgeon.measure.results import Cell, Report
from surgeon.plan import Plan

torch = pytest.importorskip("torch")
lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("lm_eval.models.huggingface")

ROOT = Path(__file__).resolve().parents[2]
TASKS = Path(__file__).parent / "harness_tasks"
SHARED = ROOT.parent / "shared" / "data" / "eval"
STORIES = ("stories_choice:2", "stories_word", "stories_rolling", "stories_generate")
LIMIT = 6  # documents of each: generating is what takes the time


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """A sweep of whole, attention and block cuts over the tasks of this folder."""
    folder = tmp_path_factory.mktemp("stories") / "report"
    report = surgeon.sweep(
        "sample",
        surgeon.TaskSettings(STORIES, limit=LIMIT, include_path=str(TASKS)),
        folder,
        drops=["attn", "block"],
        fractions=["33%"],
        keep_last="yes",
        device="cpu",
        batch_size=1,
    )
    return folder, report


def own_run(folder: Path | str, include_path: Path, limit: int, names: list[str]) -> Any:
    """The harness's results of a folder on the disk, without surgeon."""
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with quiet():
        model = HFLM(
            pretrained=str(folder),
            dtype="float32",
            softmax_dtype="float32",
            device="cpu",
            batch_size=1,
        )
        manager = TaskManager(include_defaults=False, include_path=str(include_path))
        tasks = manager.load(names)["tasks"]
        for task in tasks.values():
            if task.config.task == "stories_choice":
                task.set_config(key="num_fewshot", value=2)
        done = lm_eval.simple_evaluate(
            model=model,
            tasks=list(tasks.values()),
            task_manager=manager,
            limit=limit,
            bootstrap_iters=1000,
            log_samples=False,
        )
    return done["results"]


def assert_equal(cell: Cell, report: Report, results: Any) -> None:
    """Every score and every standard error, bit by bit."""
    assert {measure.name for measure in report.measures} == set(cell.scores)
    for measure in report.measures:
        if measure.name == "average":
            continue
        task, _, metric = measure.name.partition(".")
        metric = metric or measure.detail.split()[-1]
        scale = 100.0 if measure.unit == "%" else 1.0
        assert cell.scores[measure.name] == scale * results[task][f"{metric},none"], measure.name
        spread = results[task][f"{metric}_stderr,none"]
        if measure.name in cell.stderr:
            assert cell.stderr[measure.name] == scale * spread, measure.name
        else:
            assert spread == "N/A"


def test_scores_are_those_of_the_harness_on_the_cut_folder(
    stories: tuple[Path, Report], tmp_path: Path
) -> None:
    """Cuts that share their computation against folders that were cut and that the harness loaded."""
    _, report = stories
    names = [word.partition(":")[0] for word in STORIES]
    assert [cell.variant.drop for cell in report.cells] == [None, "attn", "block"]
    for number, cell in enumerate(report.cells):
        folder: Path | str = ROOT / "surgeon" / "sample"
        if cell.variant.removed:
            folder = tmp_path / str(number)
            surgeon.prune("sample", folder, Plan(12, cell.variant.removed))
        assert_equal(cell, report, own_run(folder, TASKS, LIMIT, names))
    assert len({cell.scores["stories_word.perplexity"] for cell in report.cells}) == 3


def test_what_a_report_says_of_its_tasks(stories: tuple[Path, Report]) -> None:
    folder, report = stories
    assert report.settings["tasks"] == list(STORIES)
    assert report.settings["limit"] == LIMIT
    by_name = {measure.name: measure for measure in report.measures}
    acc = by_name["stories_choice.acc_norm"]
    assert (acc.label, acc.unit, acc.detail) == ("stories_choice acc_norm", "%", "2-shot")
    assert by_name["stories_generate"].detail == "0-shot exact_match"
    assert not by_name["stories_word.perplexity"].higher_is_better
    written = json.loads((folder / "report.json").read_text())
    assert written == report.to_json()
    assert "stories_choice acc_norm" in (folder / "report.md").read_text()


def test_a_batch_changes_no_answer(stories: tuple[Path, Report]) -> None:
    """Padded batches round otherwise, in the seventh digit; what is right or wrong stays so."""
    _, report = stories
    settings = surgeon.TaskSettings(STORIES, limit=LIMIT, include_path=str(TASKS))
    (cell,) = surgeon.evaluate("sample", settings, device="cpu").cells
    whole = report.cells[0]
    for measure in report.measures:
        expected = whole.scores[measure.name]
        assert cell.scores[measure.name] == (
            expected if measure.unit == "%" else pytest.approx(expected, rel=1e-5)
        )


def test_openllm_and_more_from_json_lines(tmp_path: Path) -> None:
    """The real tasks with their few-shot prompts, longer than the sample can read, and no network."""
    if not SHARED.is_dir():
        pytest.skip("the evaluation data are not here")
    make = runpy.run_path(str(ROOT / "scripts" / "offline_tasks.py"))["make_tasks"]
    names = make(SHARED, tmp_path / "tasks", subjects=2)
    assert set(names) > {wanted.task for wanted in OPENLLM}
    settings = surgeon.TaskSettings(("openllm,lambada_openai:0",), 2, str(tmp_path / "tasks"))
    plan = Plan.last(12, 4, "attn")
    report = surgeon.evaluate("sample", settings, plan, device="cpu", batch_size=1)
    (cell,) = report.cells
    assert [f"{m.name} {m.detail}" for m in report.measures] == [
        "arc_challenge 25-shot acc_norm",
        "hellaswag 10-shot acc_norm",
        "truthfulqa_mc2 0-shot acc",
        "mmlu 5-shot acc",
        "lambada_openai.perplexity 0-shot",
        "lambada_openai.acc 0-shot",
        "average mean of the four",
    ]
    four = [cell.scores[wanted.task] for wanted in OPENLLM]
    assert cell.scores["average"] == sum(four) / 4
    surgeon.prune("sample", tmp_path / "cut", plan)
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with quiet():
        model = HFLM(str(tmp_path / "cut"), dtype="float32", softmax_dtype="float32", device="cpu")
        manager = TaskManager(include_defaults=False, include_path=str(tmp_path / "tasks"))
        for wanted in OPENLLM:
            done = lm_eval.simple_evaluate(
                model=model,
                tasks=[wanted.task],
                num_fewshot=wanted.shots,
                limit=2,
                task_manager=manager,
                bootstrap_iters=0,
            )["results"]
            expected = 100 * done[wanted.task][f"{wanted.metric},none"]
            assert cell.scores[wanted.task] == expected, wanted.task


def test_measured_beside_a_pruned_folder(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    """eval -o OUT/measured.json: the result in the card, and nothing of the harness on the terminal."""
    out = tmp_path / "out"
    surgeon.prune("sample", out, last=4)
    tasks = ("--tasks", "stories_choice:1,stories_word", "--include-path", TASKS, "--limit", 3)
    done = cli("eval", out, *tasks, "-o", out / "measured.json", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report == json.loads((out / "measured.json").read_text())
    assert done.err.splitlines() == [f"The model card beside {out}/measured.json says so now."]
    card = (out / "README.md").read_text()
    score = report["cells"][0]["scores"]["stories_choice.acc"]
    assert f"| stories_choice acc, 1-shot, % | {score:.2f} ±" in card
    assert "**Only the first 3 documents of each task.**" in card
    assert surgeon.verify(out, "sample").ok


def test_words_of_tasks(refuse: Callable[..., None]) -> None:
    assert parse_tasks(["openllm"]) == OPENLLM
    assert parse_tasks(["a:3, b", "c"]) == (Wanted("a", 3), Wanted("b"), Wanted("c"))
    for words in (["a,a:3"], ["openllm,mmlu"]):
        refuse(partial(parse_tasks, words), "asked for twice")
    for words in (["a:x"], ["a:"], ["a:-1"]):
        refuse(partial(parse_tasks, words), "is no number of shots")
    refuse(partial(parse_tasks, [" , "]), "names no task")


def test_tasks_that_cannot_be_had(
    refuse: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown names, data out of reach, settings that a task does not allow: one line each."""
    import lm_eval.tasks

    # an index of the harness's own 14,000 tasks takes many seconds
    monkeypatch.setattr(
        lm_eval.tasks,
        "TaskManager",
        lambda include_path, include_defaults=False, real=lm_eval.tasks.TaskManager: real(
            include_path=include_path, include_defaults=False
        ),
    )

    def load(word: str, folder: Path = TASKS, limit: int | None = None) -> None:
        load_tasks(parse_tasks([word]), str(folder), limit)

    near = "did you mean stories_choice or"
    refuse(partial(load, "stories_choise"), "no task 'stories_choise'", near)
    refuse(partial(load, "zzzzzzz"), "no task 'zzzzzzz'", "--include-path")
    refuse(partial(load, "stories,stories_word"), "stories_word is asked for twice")
    refuse(partial(load, "stories_word:3"), "0-shot by its own settings")
    refuse(partial(load, "stories_word", limit=0), "--limit 0")
    refuse(partial(load, "stories_word", tmp_path / "none"), "is no folder")
    (tmp_path / "far.py").write_text(
        "def load(**_):\n    raise ConnectionError(\"Couldn't reach 'a/b' on the Hub\\nmore\")\n"
        "def odd(**_):\n    raise KeyError('split')\n"
    )
    for name in ("load", "odd"):
        (tmp_path / f"{name}.yaml").write_text(
            f"task: {name}\ncustom_dataset: !function far.{name}\noutput_type: multiple_choice\n"
            "doc_to_text: x\ndoc_to_choice: ['a']\ndoc_to_target: 0\ntest_split: test\n"
        )
    far = partial(load, "load", tmp_path)
    refuse(far, "task load: its data set cannot be fetched (Couldn't reach 'a/b'", "--include-path")
    refuse(partial(load, "odd", tmp_path), "task odd: cannot be loaded ('split')")


def test_flags_of_the_command_line(cli: Callable[..., Outcome], tmp_path: Path) -> None:
    assert_refused(cli("eval", "sample"), "nothing to measure: give --text FILE or --tasks LIST")
    assert_refused(cli("eval", "sample", "--tasks", "a", "--window", "8"), "--window, --stride")
    assert_refused(cli("eval", "sample", "--text", "a", "--limit", "8"), "--limit, --include-path")
    sweep = ("sweep", "sample", "-o", tmp_path / "x", "--text", "a")
    assert_refused(cli(*sweep, "--ray-address", "auto"), "give --workers N")
    assert not (tmp_path / "x").exists()
