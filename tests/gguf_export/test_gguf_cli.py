"""``surgeon export gguf``: words, exit codes, what is refused and what is left."""

import json
import shlex

import checkpoints
import pytest
from checkpoints import assert_refused
from llama_numbers import SAMPLE, make

pytest.importorskip("gguf")


@pytest.fixture
def plain(tmp_path):
    return make(tmp_path / "plain")


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def left(tmp_path):
    return sorted(path.name for path in (tmp_path / "here").iterdir())


def edit(file, change):
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(json.dumps(data), encoding="utf-8")


def test_words(cli, plain, tmp_path):
    done = cli("export", "gguf", plain)
    assert (done.code, done.err) == (0, "")
    first, wrote, following = done.out.splitlines()
    assert first == "plain: architecture llama, f32, tokenizer llama, default."
    assert wrote.startswith("Wrote plain-f32.gguf, 30 tensors, ")
    assert shlex.split(following)[:4] == ["Next:", "llama-cli", "-m", "plain-f32.gguf"]
    assert left(tmp_path) == ["plain-f32.gguf"]


def test_json(cli, tmp_path):
    done = cli("export", "gguf", "sample", "--dtype", "q8_0", "-o", "deep/er/x.gguf", "--json")
    report = json.loads(done.out)
    assert (report["model"], report["dtype"], report["notes"]) == ("sample", "q8_0", [])
    assert report["size"] == (tmp_path / "here/deep/er/x.gguf").stat().st_size


def test_an_existing_file_stays_unless_allowed(cli, plain, tmp_path):
    file = tmp_path / "here" / "out.gguf"
    file.write_bytes(b"precious")
    assert_refused(cli("export", "gguf", plain, "-o", file), "exists", "--overwrite")
    assert file.read_bytes() == b"precious"
    assert cli("export", "gguf", plain, "-o", file, "--overwrite").code == 0
    assert file.read_bytes()[:4] == b"GGUF"
    assert_refused(cli("export", "gguf", plain, "-o", tmp_path / "here"), "is a folder")


def test_what_overflows_float16_leaves_nothing(cli, tmp_path):
    model = make(tmp_path / "big", dtype="BF16")
    weights = checkpoints.read_weights(model)
    name = "model.layers.2.mlp.down_proj.weight"
    dtype, shape, data = weights[name]
    weights[name] = (dtype, shape, b"\x00\x50" * (len(data) // 2))  # 8.6e9
    checkpoints.write_weights(model / "model.safetensors", weights)
    assert_refused(cli("export", "gguf", model, "--dtype", "f16"), "too large for float16")
    assert left(tmp_path) == []


def test_a_full_disk(cli, plain, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert_refused(cli("export", "gguf", plain), "are needed, but only 1 KB are free")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_act": "gelu"}, ["hidden_act 'gelu'"]),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, ["rope type 'yarn'", "known are"]),
        ({"rope_parameters": {"rope_type": "odd"}}, ["rope type 'odd'"]),
        ({"rope_parameters": {"rope_type": ["odd"]}}, ["rope type ['odd']"]),
        ({"rope_parameters": {"rope_theta": "1e4"}}, ["rope_theta is '1e4'"]),
        ({"rms_norm_eps": None}, ["rms_norm_eps is None"]),
    ],
)
def test_configs_that_would_run_as_something_else(change, words, cli, plain, tmp_path):
    edit(plain / "config.json", lambda config: config.update(change))
    assert_refused(cli("export", "gguf", plain), "config.json", *words)
    assert left(tmp_path) == []


def test_models_that_would_run_as_something_else(cli, plain, tmp_path):
    assert_refused(cli("export", "gguf", plain, "--dtype", "q4"), "'q4' is not known", "q8_0")
    quantized = checkpoints.make(tmp_path / "gptq", gptq=True, hidden=32, mlp=64)
    assert_refused(cli("export", "gguf", quantized), "no quantized weights")
    assert cli("prune", plain, "--last", "3", "-o", tmp_path / "none").code == 0
    assert_refused(cli("export", "gguf", tmp_path / "none"), "at least one block with attention")
    assert cli("prune", plain, "--drop", "mlp", "--last", "1", "-o", tmp_path / "mlp").code == 0
    assert_refused(cli("export", "gguf", tmp_path / "mlp"), "attention of block 2", "--portable")
    weights = checkpoints.read_weights(plain)
    weights["model.extra.weight"] = weights["model.norm.weight"]
    checkpoints.write_weights(plain / "model.safetensors", weights)
    assert_refused(cli("export", "gguf", plain), "'model.extra.weight' has no place")
    biased = make(tmp_path / "biased", attention_bias=True, config={"attention_bias": False})
    assert_refused(cli("export", "gguf", biased), "self_attn.", "bias' has no place")
    assert left(tmp_path) == []


def unigram(data):
    data["model"]["type"] = "Unigram"


def merge_less(data):
    data["model"]["merges"] = data["model"]["merges"][:-1]


def lowercase(data):
    data["normalizer"] = {"type": "Lowercase"}


def few_bytes(data):
    del data["model"]["vocab"]["<0x41>"]


def byte_level(data):
    data["model"]["byte_fallback"] = False
    data["normalizer"] = None
    data["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True}


def unknown_words(data):
    byte_level(data)
    step = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    last = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [step, last]}


def lowered_bytes(data):
    byte_level(data)
    data["pre_tokenizer"]["add_prefix_space"] = False
    data["normalizer"] = {"type": "Lowercase"}


def other_first(data):
    data["post_processor"]["single"][0]["SpecialToken"]["id"] = "</s>"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_first, ["adds ['</s>'] to a text"]),
        (unigram, ["'Unigram'", "need BPE"]),
        (merge_less, ["does not merge", "though"]),
        (lowercase, ["treatment of spaces"]),
        (few_bytes, ["<0x41>"]),
        (byte_level, ["no name for its way of splitting words"]),
        (unknown_words, ["no name for its way of splitting words", "llama-bpe"]),
        (lowered_bytes, ["'Lowercase'"]),
        (lambda data: data.pop("model"), ["cannot be read"]),
        (lambda data: data["model"]["vocab"].update(more=2048), ["number 2048", "vocabulary has 2048"]),
    ],
)
def test_tokenizers_that_would_split_in_another_way(change, words, cli, plain, tmp_path):
    edit(plain / "tokenizer.json", change)
    assert_refused(cli("export", "gguf", plain), "tokenizer.json", *words)
    assert left(tmp_path) == []


def test_no_tokenizer(cli, plain, tmp_path):
    (plain / "tokenizer.json").unlink()
    assert_refused(cli("export", "gguf", plain), "tokenizer.json: not found, nor tokenizer.model")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:100], "is not a SentencePiece model"),
        (lambda data: b"{}", "is not a SentencePiece model"),
        (lambda data: b"", "is not a SentencePiece model"),
        # a message of one piece, and settings in which the kind of model is that of unigrams
        (lambda data: b"\x0a\x03\x0a\x01a\x12\x02\x18\x01", "is not of kind BPE"),
        (lambda data: b"\x0a\x03\x0a\x01a\x12\x02\x18\x02\x1a\x02\x20\x01", "normalizes a text"),
    ],
)
def test_sentencepiece_models_that_would_split_in_another_way(change, words, cli, plain, tmp_path):
    (plain / "tokenizer.json").unlink()
    data = (SAMPLE / "tokenizer.model").read_bytes()
    (plain / "tokenizer.model").write_bytes(change(data))
    assert_refused(cli("export", "gguf", plain), "tokenizer.model", words)
    assert left(tmp_path) == []


def test_what_is_known_to_differ_is_said(cli, plain):
    def metaspace(data):
        data["normalizer"] = None
        data["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": "first",
            "split": False,
        }

    edit(plain / "tokenizer.json", metaspace)
    lines = cli("export", "gguf", plain).out.splitlines()
    assert lines[1].startswith("Note: llama.cpp puts a space before a text that begins with one")


def test_settings_that_contradict_the_tokenizer(cli, plain):
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "add_eos_token": False}
    (plain / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": "<s>"}))
    notes = [line for line in cli("export", "gguf", plain).out.splitlines() if "Note" in line]
    assert len(notes) == 1
    assert "add_bos_token False" in notes[0]


def test_without_gguf(cli, monkeypatch):
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(
        "surgeon.gguf.export.find_spec", lambda name: None if name == "gguf" else find(name)
    )
    assert_refused(cli("export", "gguf", SAMPLE), "pip install 'surgeon[gguf]'")
