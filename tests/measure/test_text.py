"""The loss of a text is that of a plain forward pass over plainly cut windows."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import Outcome, assert_refused

import surgeon
from surgeon.errors import SurgeonError
from surgeon.measure.grid import WHOLE
from surgeon.measure.opened import Opened
from surgeon.measure.text import TextSettings, windows

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

BOOKS = Path(__file__).parents[3] / "shared" / "data" / "text" / "books_valid.txt"
STORY = "Once upon a time there was a little fox who lived near the old mill by the river. " * 12


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "story.txt"
    path.write_text(STORY + "Señor Łoś said “naïve”. The end.\n")
    return path


@pytest.fixture(scope="module")
def opened() -> Opened:
    return Opened.open("sample", "cpu")


def plain_loss(model: Any, rows: list[list[int]]) -> float:
    """Mean over rows of one length, their first token not predicted: as the prototypes had it."""
    ids = torch.tensor(rows)
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]).double(), ids[:, 1:].reshape(-1)
    )
    return float(loss)


def disjoint(tokenizer: Any, text: str, window: int, count: int) -> list[list[int]]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    size = window - 1
    return [[1, *ids[start : start + size]] for start in range(0, count * size, size)]


@pytest.mark.parametrize("cut", [{}, {"drop": "attn", "last": 4, "keep_last": True}])
def test_the_loss_is_that_of_transformers_on_the_cut_folder(
    story: Path, tmp_path: Path, cut: dict[str, Any], opened: Opened
) -> None:
    from transformers import AutoModelForCausalLM

    folder: Any = opened.folder
    if cut:
        folder = surgeon.prune("sample", tmp_path / "out", **cut).output
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = plain_loss(model, disjoint(opened.tokenizer, story.read_text(), 64, 3))
    settings = TextSettings((str(story),), window=64, stride=64, windows=3)
    rule = surgeon.Rule(**cut) if cut else None
    report = surgeon.evaluate("sample", settings, rule, device="cpu")
    (cell,) = report.cells
    assert cell.scores["loss"] == pytest.approx(expected, abs=1e-5)
    assert cell.scores["perplexity"] == pytest.approx(math.exp(expected), rel=1e-4)
    assert report.settings["window"] == 64
    assert report.settings["stride"] == 63
    assert report.subject.dtype == "float32"
    assert bool(cell.variant.removed) == bool(cut)
    # nothing but a file's own name says what was written: a round trip loses nothing
    assert type(report).from_json(json.loads(json.dumps(report.to_json())), "here") == report


@pytest.mark.parametrize(("window", "stride"), [(8, 3), (8, 7), (8, 1), (2, 1), (50, 20), (100, 99)])
def test_each_token_is_predicted_once_with_all_the_context_there_is(window: int, stride: int) -> None:
    ids = list(range(100, 171))
    items = windows(ids, 1, window, stride)
    assert [token for item in items for token in item.continuation] == ids
    done = 0
    for number, item in enumerate(items):
        assert item.context[0] == 1
        assert len(item.context) + len(item.continuation) <= window
        assert len(item.continuation) <= (stride if number else window - 1)
        before = list(item.context[1:])
        assert before == ids[done - len(before) : done]
        if number:
            assert len(before) == window - 1 - len(item.continuation)
        done += len(item.continuation)


def test_bits_for_each_byte_that_was_scored(story: Path, opened: Opened) -> None:
    text = story.read_text()
    for windows_, characters in ((None, None), (2, None), (None, len(STORY) + 9)):
        settings = TextSettings((str(story),), 64, 64, characters, windows_)
        prepared = settings.prepare(opened)
        tokens = [t for item in prepared.items for t in item.continuation]
        # the text of exactly those tokens, found without offsets
        scored = opened.tokenizer.decode(tokens, clean_up_tokenization_spaces=False).lstrip(" ")
        size = len(scored.encode())
        assert text.startswith(scored)
        if windows_ is None:
            assert scored == text[:characters]
        from surgeon.measure.scoring import Score

        scores = [Score(-float(len(item.continuation)), False) for item in prepared.items]
        values = prepared.summarize(WHOLE, scores).values
        assert values["loss"] == 1.0
        assert values["bits_per_byte"] == pytest.approx(len(tokens) / math.log(2) / size)


def test_a_perplexity_beyond_all_numbers_is_written_as_one() -> None:
    from surgeon.measure.scoring import Item, Score
    from surgeon.measure.text import summarize

    found = summarize([Item((1,), (2,))], 4, [Score(-5000.0, False)]).values
    assert found["loss"] == 5000
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_several_files_are_texts_of_their_own(story: Path, tmp_path: Path, opened: Opened) -> None:
    other = tmp_path / "other.txt"
    other.write_text("The old miller had three sons and a cat. " * 4)
    single = [TextSettings((str(f),), 32).prepare(opened) for f in (story, other)]
    both = TextSettings((str(story), other), 32).prepare(opened)
    assert TextSettings(story, 32).prepare(opened).items == single[0].items
    assert both.items == single[0].items + single[1].items


def test_a_text_shorter_than_a_window(tmp_path: Path, opened: Opened) -> None:
    path = tmp_path / "short.txt"
    path.write_text("The fox ran.")
    said: list[str] = []
    prepared = TextSettings((str(path),)).prepare(opened, said.append)
    assert len(prepared.items) == 1
    assert len(said) == 1
    assert "less than a window of 1024; measured as one shorter window" in said[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (b"a", "fewer than 2 tokens"),
        (b"caf\xe9 au lait", "is not UTF-8 (byte 3)"),
        (None, "cannot be read (No such file"),
    ],
)
def test_texts_that_are_refused(
    tmp_path: Path, cli: Callable[..., Outcome], data: bytes | None, words: str
) -> None:
    path = tmp_path / "text.txt"
    if data is not None:
        path.write_bytes(data)
    assert_refused(cli("eval", "sample", "--text", path, "--device", "cpu"), str(path), words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --text FILE or --tasks LIST"),
        (["--window", 1], "--window 1 is out of range; the model's context allows 2-1024"),
        (["--window", 4096], "--window 4096 is out of range"),
        (["--stride", 0], "--stride 0 is too few"),
        (["--windows", 0], "--windows 0 is too few"),
        (["--dtype", "int3"], "--dtype 'int3' is not known"),
        (["--last", 2, "--fraction", "33%"], "give exactly one of"),
        (["--last", 40], "--last 40 is out of range"),
        (["-o", "/no/such/folder/file.json"], "no such folder"),
        (["-o", "/"], "is a folder; give a file"),
    ],
)
def test_settings_that_are_refused(
    story: Path, cli: Callable[..., Outcome], arguments: list[Any], words: str
) -> None:
    text = ["--text", story] if arguments else []
    assert_refused(cli("eval", "sample", "--device", "cpu", *text, *arguments), words)


def test_eval_prints_and_writes_what_it_found(
    story: Path, tmp_path: Path, cli: Callable[..., Outcome]
) -> None:
    out = tmp_path / "measured.json"
    common = ["eval", "sample", "--text", story, "--window", 64, "--windows", 2, "--device", "cpu"]
    shown = cli(*common, "--drop", "mlp", "--last", 2, "-o", out)
    assert shown.code == 0, shown
    assert "removing MLP of layers 10-11 of 12" in shown.out
    data = json.loads(out.read_text())
    assert f"{data['cells'][0]['scores']['loss']:.3f}" in shown.out
    as_json = cli(*common, "--drop", "mlp", "--last", 2, "--json", "--dtype", "fp32")
    printed = json.loads(as_json.out)
    for report in (data, printed):
        del report["cells"][0]["seconds"]
    assert printed == data


def test_a_half_precision_has_a_float32_softmax(story: Path) -> None:
    settings = TextSettings((str(story),), 64, windows=2)
    half, full = (
        surgeon.evaluate("sample", settings, device="cpu", dtype=dtype).cells[0].scores["loss"]
        for dtype in ("bfloat16", "float32")
    )
    assert half != full
    assert half == pytest.approx(full, abs=0.03)


RISES = {  # the first table of what was measured before the project: cut -> k -> rise
    ("attn", False): (0.044, 0.077, 0.351, 0.553, 0.712),
    ("attn", True): (0.022, 0.094, 0.402, 0.556, 0.669),
    ("mlp", False): (0.231, 0.480, 0.955, 1.778, 2.548),
    ("mlp", True): (0.089, 0.194, 0.466, 0.794, 1.204),
    ("block", False): (0.271, 0.500, 0.959, 1.376, 1.614),
    ("block", True): (0.107, 0.261, 0.628, 0.815, 0.990),
}


@pytest.mark.skipif(not os.environ.get("SURGEON_SLOW"), reason="minutes long; set SURGEON_SLOW=1")
def test_the_table_of_the_reference_model(reference: Path, tmp_path: Path) -> None:
    if not BOOKS.is_file():
        pytest.skip("the shared text is not here")
    settings = TextSettings((str(BOOKS),), 512, 512, characters=260_000, windows=32)
    fractions = ["4%", "8%", "17%", "25%", "33%"]  # 1, 2, 4, 6 and 8 of 24 layers
    report = surgeon.sweep(reference, settings, tmp_path / "out", fractions=fractions, device="cpu")
    base = report.cells[0].scores["loss"]
    assert base == pytest.approx(3.364, abs=0.001)
    found: dict[tuple[str | None, bool], list[float]] = {}
    for cell in report.cells[1:]:
        key = cell.variant.drop, cell.variant.keep_last
        found.setdefault(key, []).append(cell.scores["loss"] - base)
    assert found.keys() == RISES.keys()
    for key, rises in RISES.items():
        assert found[key] == pytest.approx(rises, abs=0.01), key


def test_two_windows_of_the_reference_model(reference: Path) -> None:
    """The beginning of that table's text: the loss of the whole model there, and of one cut."""
    if not BOOKS.is_file():
        pytest.skip("the shared text is not here")
    opened = Opened.open(reference, "cpu")
    settings = TextSettings((str(BOOKS),), 512, 512, characters=260_000, windows=2)
    rows = disjoint(opened.tokenizer, BOOKS.read_text()[:260_000], 512, 2)
    (cell,) = surgeon.evaluate(reference, settings, device="cpu").cells
    assert cell.scores["loss"] == pytest.approx(plain_loss(opened.network.model, rows), abs=1e-5)


def test_a_tokenizer_of_another_model(story: Path, tmp_path: Path, refuse: Callable[..., None]) -> None:
    import checkpoints

    sample = Opened.open("sample", "cpu").folder
    files = {n: (sample / n).read_bytes() for n in ("tokenizer.json", "tokenizer_config.json")}
    folder = checkpoints.make(tmp_path / "model", files=files)
    settings = TextSettings((str(story),))
    refuse(lambda: surgeon.evaluate(folder, settings, device="cpu"), "the model's vocabulary of 32")


def test_a_plan_for_another_number_of_layers(story: Path) -> None:
    plan = surgeon.Plan.last(10, 2)
    with pytest.raises(SurgeonError, match="made for 10 layers, but sample has 12"):
        surgeon.evaluate("sample", TextSettings((str(story),)), plan, device="cpu")
