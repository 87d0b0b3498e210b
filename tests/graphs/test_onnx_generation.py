"""Tokens and text: batches of mixed lengths, where they end, and Hub-cache folders."""

import json
import os
from pathlib import Path

import pytest
from llama_numbers import SAMPLE, continuation, make, rows

from surgeon.errors import SurgeonError
from surgeon.generation import generate, stop_tokens

pytestmark = pytest.mark.models

NEW = 24
PROMPTS = [[1, 400, 401], [1, 5, 77, 78, 1500, 12, 13, 900, 61], [7], [1, 300, 12, 13, 14]]
TEXTS = ["Once upon a time, there was a little", "Once upon a time", "The", "One day a big dog"]

MODELS = [
    ("sample", None),
    ("sample", "attn-keep-last"),
    ("sample", "attn-first"),
    ("sample", "no-attention"),
    ("gqa", "scattered"),
    ("gqa", "one-mlp"),
    ("tied-mha", "one-attention"),
    ("biased", "half-joined"),
    ("llama3", "no-mlp"),
    ("linear", "block-first"),
]


def tokens(loaded, prompts, count, **options):
    from surgeon.runtime.decoding import generate_ids

    return rows(list(generate_ids(loaded, prompts, count, **options)))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("name", "key"), MODELS)
def test_a_batch_gives_what_each_prompt_gives_alone(name, key, last, opened, network):
    """To transformers; random models never meet the end token first, the sample does."""
    loaded = opened(name, key, last_logits_only=last)
    assert loaded.last_logits_only == last
    want = [continuation(network(name, key), prompt, NEW) for prompt in PROMPTS]
    assert tokens(loaded, PROMPTS, NEW, stop=[2]) == want
    # in another order, other rows are padded beside other neighbours
    assert tokens(loaded, PROMPTS[::-1], NEW, stop=[2]) == want[::-1]
    assert tokens(loaded, PROMPTS[1:2], NEW, stop=[2]) == want[1:2]


def test_runs_may_be_repeated(opened, monkeypatch):
    """Before onnxruntime captures a CUDA graph it makes the same run several times over."""
    from surgeon.runtime.decoding import Batch

    want = tokens(opened("gqa"), PROMPTS, NEW)
    run = Batch._run
    monkeypatch.setattr(Batch, "_run", lambda *arguments: [run(*arguments) for _ in range(3)])
    assert tokens(opened("gqa"), PROMPTS, NEW) == want


@pytest.mark.parametrize("last", [False, True])
def test_a_batch_of_stories(last, opened, network):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(SAMPLE / "tokenizer.json"))
    prompts = [tokenizer.encode(text).ids for text in TEXTS]
    assert len({len(prompt) for prompt in prompts}) > 2
    dot = tokenizer.token_to_id(".")
    want = [continuation(network("sample"), prompt, 60, dot) for prompt in prompts]
    assert tokens(opened("sample", last_logits_only=last), prompts, 60, stop=[dot]) == want
    ends = {len(row) for row in want}
    assert len(ends) > 1, "rows that end at different steps"


def test_a_row_that_has_ended_yields_none(opened):
    from surgeon.runtime.decoding import generate_ids

    free = tokens(opened("gqa"), PROMPTS, 8)
    assert all(len(row) == 8 for row in free)
    stop = free[1][2]
    steps = list(generate_ids(opened("gqa"), PROMPTS, 8, stop=[stop]))
    for row, whole in zip(zip(*steps, strict=True), free, strict=True):
        end = whole.index(stop) + 1 if stop in whole else 8
        assert list(row[:end]) == whole[:end], "the stop token itself is yielded"
        assert set(row[end:]) <= {None}


def test_it_ends_when_all_rows_have_ended(opened):
    free = tokens(opened("gqa"), PROMPTS[:2], 12)
    stop = [row[3] for row in free]
    last = max(min(row.index(token) for token in stop if token in row) for row in free)
    assert max(map(len, tokens(opened("gqa"), PROMPTS[:2], 12, stop=stop))) == last + 1


@pytest.mark.parametrize("last", [False, True])
def test_it_ends_where_the_context_ends(last, tmp_path, load):
    from surgeon.onnx.export import export_onnx
    from surgeon.runtime.session import load as open_session

    folder = make(tmp_path / "m", config={"max_position_embeddings": 16})
    export_onnx(folder, "fp32", last_logits_only=last)
    loaded = open_session(folder, "cpu")
    assert loaded.context_length == 16
    prompts = [PROMPTS[1], PROMPTS[0]]
    longest = len(prompts[0])
    got = tokens(loaded, prompts, 100)
    assert got == [continuation(load(folder), prompt, 16 - longest) for prompt in prompts]
    assert len(tokens(loaded, [list(range(5, 20))], 100)[0]) == 1
    for words, prompt in (
        ("16 tokens leaves no room in the context of 16", list(range(5, 21))),
        ("no tokens", []),
    ):
        with pytest.raises(SurgeonError, match=words):
            tokens(loaded, [PROMPTS[0], prompt], 4)
    with pytest.raises(SurgeonError, match="no tokens"):
        tokens(loaded, [], 4)


def test_one_new_token_and_none(opened):
    assert tokens(opened("gqa"), PROMPTS, 1) == [[row[0]] for row in tokens(opened("gqa"), PROMPTS, 3)]
    assert tokens(opened("gqa"), PROMPTS, 0) == []


@pytest.mark.parametrize(
    ("generation", "config", "want"),
    [
        ({"eos_token_id": 7}, {"eos_token_id": 8}, [7]),
        ({"eos_token_id": [7, 9]}, {"eos_token_id": 8}, [7, 9]),
        ({}, {"eos_token_id": 8}, [8]),
        ({"eos_token_id": None}, {"eos_token_id": [8, 9]}, [8, 9]),
        (None, {"eos_token_id": 0}, [0]),
        (None, {"eos_token_id": None}, []),
    ],
)
def test_where_stop_tokens_come_from(generation, config, want, tmp_path):
    from surgeon.checkpoint.source import find_source

    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert stop_tokens(find_source(tmp_path)) == want


@pytest.mark.parametrize("runtime", ["onnxruntime", "transformers"])
@pytest.mark.parametrize("as_list", [False, True])
def test_text_ends_at_the_tokens_of_generation_config(runtime, as_list, plain):
    """Both runtimes obey it, and neither shows the token."""
    from surgeon.onnx.export import export_onnx

    export_onnx(plain, "fp32")
    from tokenizers import Tokenizer

    prompt = Tokenizer.from_file(str(plain / "tokenizer.json")).encode("The").ids
    free = tokens(opened_here(plain), [prompt], 12)[0]
    stop = free[5]
    assert stop not in free[:5]
    whole = "".join(generate(plain, "The", 12, runtime=runtime))
    (plain / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2047, stop] if as_list else stop})
    )
    short = "".join(generate(plain, "The", 12, runtime=runtime))
    assert whole.startswith(short)
    tokenizer = Tokenizer.from_file(str(plain / "tokenizer.json"))
    assert "The" + short == tokenizer.decode(prompt + free[:6])


def opened_here(folder):
    from surgeon.runtime.session import load

    return load(folder, "cpu", threads=1)


def hub_like(folder: Path, root: Path) -> Path:
    """The folder as the Hub's cache lays it out: names are links to blobs."""
    blobs, snapshot = root / "models--o--n" / "blobs", root / "models--o--n" / "snapshots" / ("a1" * 20)
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        (blobs / f"{number:064x}").write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064x}")
    return snapshot


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_of_the_hub_cache(shards, tmp_path, load):
    """Nothing is written into the cache, and onnxruntime follows no link out of a graph's folder."""
    from surgeon.onnx.export import export_onnx

    snapshot = hub_like(make(tmp_path / "m", shards=shards), tmp_path)
    before = set(os.listdir(snapshot))
    with pytest.raises(SurgeonError, match=r"lies in the Hub cache.*-o FOLDER"):
        export_onnx(snapshot, "fp32")
    assert set(os.listdir(snapshot)) == before
    report = export_onnx(snapshot, "fp32", output=tmp_path / "out")
    assert report.data_bytes == 0
    assert report.model == "o/n"
    want = [continuation(load(snapshot), prompt, 8) for prompt in PROMPTS]
    assert tokens(opened_here(tmp_path / "out"), PROMPTS, 8) == want


def test_links_that_lead_out_of_the_folder(tmp_path):
    from surgeon.onnx.export import export_onnx

    folder = make(tmp_path / "m")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SurgeonError, match=r"link that leads out of the folder.*-o FOLDER"):
        export_onnx(folder, "fp32")
    assert export_onnx(folder, "fp32", output=tmp_path / "out").data_bytes == 0


def test_another_model_in_the_output_folder(tmp_path):
    """Two models in one folder would be read as one, or not at all."""
    from surgeon.onnx.export import export_onnx

    first, second = make(tmp_path / "a"), make(tmp_path / "b", seed=1)
    before = sorted(os.listdir(second))
    with pytest.raises(SurgeonError, match="holds another model"):
        export_onnx(first, "fp32", output=second)
    assert sorted(os.listdir(second)) == before
    export_onnx(first, "fp32", output=tmp_path / "out")
    export_onnx(first, "fp32", output=tmp_path / "out")  # again is no other model
    (tmp_path / "out" / "generation_config.json").write_text("{}")
    assert (first / "generation_config.json").read_text() != "{}"  # what may be edited is a copy


def test_links_inside_of_a_folder_are_no_obstacle(tmp_path, load):
    from surgeon.onnx.export import export_onnx

    folder = make(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "weights.bin_")
    (folder / "model.safetensors").symlink_to("weights.bin_")
    (tmp_path / "link").symlink_to(folder)
    assert export_onnx(tmp_path / "link", "fp32").data_bytes == 0
    want = [continuation(load(folder), prompt, 8) for prompt in PROMPTS]
    assert tokens(opened_here(tmp_path / "link"), PROMPTS, 8) == want


@pytest.mark.parametrize("shards", [1, 3])
def test_another_output_folder(shards, tmp_path, load):
    """The weights are not copied, and the folder of hard links runs."""
    from surgeon.onnx.export import export_onnx

    made, out = make(tmp_path / "m", shards=shards), tmp_path / "out" / "below"
    before = set(os.listdir(made))
    report = export_onnx(made, "fp32", output=out)
    assert report.graph == str(out / "model.onnx")
    assert report.data_bytes == 0
    assert set(os.listdir(made)) == before
    for path in out.glob("*.safetensors"):
        assert path.samefile(made / path.name)
    want = [continuation(load(made), prompt, 8) for prompt in PROMPTS]
    assert tokens(opened_here(out), PROMPTS, 8) == want
    assert export_onnx(made, "fp32", output=out).data_bytes == 0, "a second time, over the first"


def test_converted_weights_in_another_folder_run(tmp_path, opened, network):
    """Of the sample, which is bfloat16: only model.onnx.data is read then."""
    from surgeon.onnx.export import export_onnx

    report = export_onnx("sample", "fp32", output=tmp_path / "out")
    assert report.data_bytes == (tmp_path / "out" / "model.onnx.data").stat().st_size > 0
    want = [continuation(network("sample"), prompt, 8) for prompt in PROMPTS]
    assert tokens(opened_here(tmp_path / "out"), PROMPTS, 8) == want
