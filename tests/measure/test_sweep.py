"""A sweep: the grid in one process, equal to its cuts one by one, and continued after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checkpoints import Outcome, assert_refused

import surgeon
from surgeon.measure.grid import grid
from surgeon.measure.text import TextSettings
from surgeon.plan import Plan, Sublayer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

WORDS = "The wind came over the hill and the children ran home to their mother. "


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text(WORDS * 20)
    return path


def swept(text: Path, folder: Path, **options: Any) -> Any:
    settings = TextSettings((str(text),), window=64, stride=64, windows=2)
    return surgeon.sweep(
        "sample", settings, folder, **{"device": "cpu", "fractions": ["33%"], **options}
    )


def without_times(report: Any) -> Any:
    data = report.to_json()
    for cell in data["cells"]:
        del cell["seconds"]
    return data


def test_every_cell_is_that_of_a_cut_alone(text: Path, tmp_path: Path) -> None:
    report = swept(text, tmp_path / "out")
    assert [cell.variant for cell in report.cells] == list(grid(12, fractions=["33%"]))
    settings = TextSettings((str(text),), window=64, stride=64, windows=2)
    for cell in report.cells:
        removed = cell.variant.removed
        plan = Plan(12, removed) if removed else None
        alone = surgeon.evaluate("sample", settings, plan, device="cpu")
        assert alone.cells[0].scores == cell.scores, cell.variant.name
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report.to_json()
    assert len({cell.scores["loss"] for cell in report.cells}) == 7


def test_a_sweep_that_was_interrupted_goes_on(text: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from surgeon.measure import gather

    a_part_for_each_window = partial(gather.make_parts, tokens=64)
    monkeypatch.setattr(gather, "make_parts", a_part_for_each_window)
    expected = swept(text, tmp_path / "one")

    def interrupt(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(text, tmp_path / "two", progress=interrupt)
    assert not (tmp_path / "two" / "report.json").exists()
    seen: list[tuple[int, int]] = []
    found = swept(text, tmp_path / "two", progress=lambda *done: seen.append(done))
    assert without_times(found) == without_times(expected)
    assert seen[-1][1] == 63


def test_a_finished_sweep_loads_no_weights(text: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from surgeon.measure.network import Network

    expected = swept(text, tmp_path)
    monkeypatch.setattr(Network, "load", None)
    assert swept(text, tmp_path) == expected


KILLED = """
import os, signal, sys
import surgeon
from functools import partial
from surgeon.measure import gather
from surgeon.measure.text import TextSettings

text, folder = sys.argv[1:]
gather.make_parts = partial(gather.make_parts, tokens=64)

def progress(done, total):
    journal = os.path.join(folder, "journal.jsonl")
    if os.path.exists(journal) and open(journal).read().count("part") >= 7:
        os.kill(os.getpid(), signal.SIGKILL)

settings = TextSettings((text,), window=64, stride=64)
surgeon.sweep("sample", settings, folder, fractions=["33%"], device="cpu", progress=progress)
"""


def test_a_killed_process_goes_on(text: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """SIGKILL within the second part, when the journal has the scores of the first."""
    folder = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(text), str(folder)],
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (folder / "report.json").exists()
    before = (folder / "journal.jsonl").read_bytes()
    from surgeon.measure import gather

    monkeypatch.setattr(gather, "make_parts", partial(gather.make_parts, tokens=64))
    settings = TextSettings((str(text),), window=64, stride=64)
    grid_ = {"fractions": ["33%"], "device": "cpu"}
    seen: list[tuple[int, int]] = []
    found = surgeon.sweep("sample", settings, folder, **grid_, progress=lambda *done: seen.append(done))
    expected = surgeon.sweep("sample", settings, tmp_path / "whole", **grid_)
    assert without_times(found) == without_times(expected)
    assert (folder / "journal.jsonl").read_bytes().startswith(before)
    assert before.count(b"part") >= 7
    assert seen[-1][1] < sum(len(item.row) for item in prepared_items(settings))


def prepared_items(settings: TextSettings) -> Any:
    from surgeon.measure.opened import Opened

    return settings.prepare(Opened.open("sample", "cpu")).items


def test_the_folder_of_something_else(text: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    swept(text, tmp_path / "out")
    before = (tmp_path / "out" / "report.json").read_bytes()
    sweep = ["sweep", "--text", text, "--window", 64, "--device", "cpu"]
    common = [*sweep, "--windows", 2, "--stride", 64, "-o", tmp_path / "out"]
    assert_refused(cli(*sweep, "sample", "-o", tmp_path / "out"), "the report of another settings")
    assert_refused(cli(*common, "sample", "--dtype", "bf16"), "the report of another dtype")
    surgeon.prune("sample", tmp_path / "cut", drop="block", last=2)
    assert_refused(
        cli(*common, tmp_path / "cut"), f"{tmp_path / 'out'}: is the report of another model"
    )
    assert_refused(cli(*common[:-1], text.parent, "sample"), "is not a report's folder")
    assert (tmp_path / "out" / "report.json").read_bytes() == before
    assert cli(*common, "sample", "--fractions", "10%,33%").code == 0  # a grid may grow


def test_weights_tell_models_apart(tmp_path: Path) -> None:
    """Two models whose names, shapes and configs agree."""
    from surgeon.measure.opened import Opened

    first = Opened.open("sample", "cpu")
    shutil.copytree(first.folder, tmp_path / "twin")
    path = tmp_path / "twin" / "model.safetensors"
    os.chmod(path, 0o644)
    assert Opened.open(tmp_path / "twin", "cpu").fingerprint == first.fingerprint
    data = bytearray(path.read_bytes())
    tensor = first.checkpoint.tensors["model.layers.3.mlp.up_proj.weight"]
    data[tensor.offset + tensor.length // 2] ^= 1
    path.write_bytes(data)
    assert Opened.open(tmp_path / "twin", "cpu").fingerprint != first.fingerprint


def test_logits_that_are_not_numbers_stop_the_sweep(text: Path, tmp_path: Path) -> None:
    """An MLP makes NaN: the first cut that has it is named, and nothing passes for a report."""
    from surgeon.measure.opened import Opened

    first = Opened.open("sample", "cpu")
    shutil.copytree(first.folder, tmp_path / "bad")
    path = tmp_path / "bad" / "model.safetensors"
    os.chmod(path, 0o644)
    data = bytearray(path.read_bytes())
    tensor = first.checkpoint.tensors["model.layers.11.mlp.down_proj.weight"]
    data[tensor.offset : tensor.offset + 2] = b"\xc0\x7f"  # NaN in bfloat16
    path.write_bytes(data)
    settings = TextSettings(text, window=64, stride=64, windows=2)
    out = tmp_path / "out"
    with pytest.raises(surgeon.SurgeonError, match="mlp last 4, last layer kept: its logits are not"):
        surgeon.sweep(
            tmp_path / "bad",
            settings,
            out,
            drops=["mlp"],
            fractions=["33%"],
            keep_last="yes",
            device="cpu",
        )
    assert not (out / "report.json").exists()
    without = Plan.last(12, 1, "mlp")
    bad, good = (
        surgeon.evaluate(model, settings, without, device="cpu").cells[0]
        for model in (tmp_path / "bad", "sample")
    )
    assert bad.scores == good.scores


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--drop", "attn,head"], "--drop 'head' is not known"),
        (["--fractions", "12"], "--fraction 12 is not a share"),
        (["--fractions", "1%,2%"], "rounds to none"),
        (["--paper", "gpt"], "--paper 'gpt' is not known"),
        (["--text", "/no/such/text"], "/no/such/text: cannot be read"),
        ([], "nothing to measure: give --text FILE"),
    ],
)
def test_grids_that_are_refused(
    text: Path, tmp_path: Path, cli: Callable[..., Outcome], arguments: list[str], words: str
) -> None:
    out = tmp_path / "out"
    good = ["--text", text, "--window", 64] if "--text" not in arguments and arguments else []
    done = cli("sweep", "sample", "--device", "cpu", "-o", out, *good, *arguments)
    assert_refused(done, words)
    assert not out.exists()


def test_the_command_shows_every_cut(text: Path, tmp_path: Path, cli: Callable[..., Outcome]) -> None:
    done = cli(
        "sweep", "sample", "--text", text, "--window", 64, "--windows", 1, "--device", "cpu",
        "--fractions", "0,4%,33%", "--keep-last", "yes", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.code == 0, done
    assert "left out: --fraction 4% of 12 layers rounds to none" in done.err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["cells"]) == 4
    base, *losses = (cell["scores"]["loss"] for cell in report["cells"])
    for loss in losses:
        assert f"{loss - base:+.3f}" in done.out
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"report.md", "index.html"}
    page = (tmp_path / "out" / "index.html").read_text()
    assert "surgeon sweep sample --drop attn,mlp,block --fractions 33% --keep-last yes" in page
    assert f" --text {text} --window 64" in page
    assert "Llama-2-7B" not in page


def test_the_papers_numbers_beside(text: Path, tmp_path: Path) -> None:
    swept(text, tmp_path, drops=["attn"], paper="llama-2-7b")
    assert "The paper's numbers for Llama-2-7B" in (tmp_path / "report.md").read_text()


def test_cuts_of_a_model_that_was_cut(text: Path, tmp_path: Path) -> None:
    surgeon.prune("sample", tmp_path / "cut", drop="attn", last=4)
    said: list[str] = []
    settings = TextSettings((str(text),), window=64, windows=1)
    report = surgeon.sweep(
        tmp_path / "cut",
        settings,
        tmp_path / "out",
        fractions=["33%"],
        device="cpu",
        notify=said.append,
    )
    assert said == [
        "left out: attn 33%: it removes nothing; these sublayers are not in the model (any more)"
    ]
    names = [cell.variant.name for cell in report.cells]
    assert "attn last 4" not in names
    assert names[0] == "whole"
    block = next(c for c in report.cells if c.variant.name == "block last 4")
    assert all(sub is Sublayer.MLP for _, sub in block.variant.removed)
