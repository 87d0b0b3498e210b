"""llama.cpp splits a text into the tokens that the tokenizer.json of the model says."""

import json
import shutil
from pathlib import Path

import checkpoints
import pytest

import surgeon

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

SAMPLE = Path(surgeon.__file__).parent / "sample"

TEXTS = (
    "Once upon a time, there was a mouse.",
    "one  two   three\n\nfour\tfive \n six\r\n",
    "I'll say: don't! We'RE 12345 and 3.14159, 1,000,000?!",
    "na\u00efve caf\u00e9 \u2014 \u201cquoted\u201d \u4f60\u597d\uff0c\u4e16\u754c",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u0646\u0635 \u0e44\u0e17\u0e22",
    "def f(x):\n    return x**2  # square\n\n\n",
    "MixedCASE camelCase snake_case HTTPServer2",
    "x",
    "a\u0301\u00a0\u2028b",
)


def train(pre, normalizer=None, ignore_merges=False):
    """A byte-level BPE made from this file and its neighbours, with two special tokens and one more."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre
    tokenizer.normalizer = normalizer
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    tokenizer.train_from_iterator([*texts, *TEXTS], trainer)
    tokenizer.add_tokens(["<tool>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
    )
    return tokenizer


def splitting(name):
    from surgeon.gguf.pretokenizers import KNOWN

    (pre,) = (pre for pre in KNOWN if pre.name == name)
    steps = [
        tokenizers.pre_tokenizers.Digits(individual_digits=True)
        if step == "digits"
        else tokenizers.pre_tokenizers.Split(tokenizers.Regex(step), "isolated")
        for step in pre.steps
    ]
    last = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre.words)
    return tokenizers.pre_tokenizers.Sequence([*steps, last]), pre.ignore_merges


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "tekken", "smollm", "gpt-2"])
def test_byte_level(name, tmp_path, llama_cpp):
    pre, ignore_merges = splitting(name)
    tokenizer = train(pre, ignore_merges=ignore_merges)
    size = tokenizer.get_vocab_size() + 3  # embeddings without a token
    model = checkpoints.make(
        tmp_path / "model", hidden=32, heads=2, kv_heads=1, head_dim=16, vocab=size
    )
    tokenizer.save(str(model / "tokenizer.json"))
    settings = {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    report = surgeon.export_gguf(model, "f32", output=tmp_path / "model.gguf")
    assert report.tokenizer == f"gpt2, {name}"
    texts = [*TEXTS, "call <tool> or<|end|>now"]
    got = llama_cpp(tmp_path / "model.gguf", size, texts=texts)["tokenized"]
    assert got == [tokenizer.encode(text).ids for text in texts]


def test_sentencepiece(tmp_path, llama_cpp):
    tokenizer = tokenizers.Tokenizer.from_file(str(SAMPLE / "tokenizer.json"))
    report = surgeon.export_gguf("sample", "f32", output=tmp_path / "model.gguf")
    assert report.tokenizer == "llama, default"
    texts = [*TEXTS, " leading", "two</s><s>texts", "<0x41> is no byte"]
    got = llama_cpp(tmp_path / "model.gguf", texts=texts)["tokenized"]
    assert got == [tokenizer.encode(text).ids for text in texts]


def test_a_sentencepiece_model_alone(tmp_path, llama_cpp):
    """Without tokenizer.json the same tokens come from tokenizer.model."""
    model = tmp_path / "model"
    shutil.copytree(SAMPLE, model)
    (model / "tokenizer.json").unlink()
    tokenizer = tokenizers.Tokenizer.from_file(str(SAMPLE / "tokenizer.json"))
    surgeon.export_gguf(model, "f32", output=tmp_path / "model.gguf")
    got = llama_cpp(tmp_path / "model.gguf", texts=TEXTS)["tokenized"]
    assert got == [tokenizer.encode(text).ids for text in TEXTS]


def test_sentencepiece_without_a_space_in_front(tmp_path, llama_cpp):
    model = tmp_path / "model"
    shutil.copytree(SAMPLE, model)
    data = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    del data["normalizer"]["normalizers"][0]
    (model / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
    surgeon.export_gguf(model, "f32", output=tmp_path / "model.gguf")
    got = llama_cpp(tmp_path / "model.gguf", texts=TEXTS)["tokenized"]
    assert got == [tokenizer.encode(text).ids for text in TEXTS]
    assert got[0][1] != tokenizer.token_to_id("\u2581O")
