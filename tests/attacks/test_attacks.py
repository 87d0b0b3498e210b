"""Every attack of the corpus through the command line: one line, code 2, nothing written."""

import os
from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest
from checkpoints import Outcome, Spec, assert_refused, digest
from folders import ATTACKS, Spoil

HERE = Path(__file__).parent
Cli = Callable[..., Outcome]

WEIGHTS = {
    "another-model": "missing",
    "bytes-at-end": "belong to no tensor",
    "duplicate-name": "'a' twice",
    "empty": "only 0 bytes",
    "fractional-offset": "offsets [0, 4.0]",
    "gap-at-start": "leaves a gap",
    "gap-between": "leaves a gap",
    "header-a-list": "not a JSON object",
    "header-behind-spaces": "not a JSON object",
    "header-beyond-file": "beyond the file",
    "header-deeply-nested": "not JSON",
    "header-empty": "not JSON",
    "header-not-json": "not JSON",
    "header-not-utf8": "not JSON",
    "header-of-2-to-63": "over the format's limit",
    "header-of-2-to-64": "over the format's limit",
    "header-over-limit": "over the format's limit",
    "huge-offset": "has the shape",
    "length-not-dtype-x-shape": "4 bytes long, which is not BF16 [4]",
    "lfs-pointer": "is a git-lfs pointer",
    "metadata-of-numbers": "not a table of strings",
    "negative-offset": "has the offsets [-4, 0]",
    "negative-shape": "has the shape [-2, -2]",
    "no-dtype": "unknown dtype None",
    "no-tensors": "has no attention",
    "number-of-5000-digits": "not JSON",
    "one-offset": "has the offsets [4]",
    "overlapping": "'b' overlaps",
    "pickle": "not a safetensors file?",
    "product-that-overflows": "4 bytes long, which is not",
    "reversed": "reversed offsets [4, 0]",
    "same-bytes-twice": "overlaps",
    "seven-bytes": "only 7 bytes",
    "tensor-a-number": "has no description",
    "truncated-data": "truncated",
    "unknown-dtype": "unknown dtype 'E8M0'",
}
INDEX = {
    "absolute-path": "not a plain file name",
    "backslash": "not a plain file name",
    "config-as-shard": "config.json: header of",
    "deeply-nested": "not JSON",
    "dot": "not a plain file name",
    "dot-dot": "not a plain file name",
    "empty-name": "not a plain file name",
    "empty-weight-map": "no weight_map",
    "list": "not a plain file name",
    "missing-file": "download the missing shard",
    "newline": "not found",
    "no-weight-map": "no weight_map",
    "not-an-object": "not a JSON object",
    "not-json": "not JSON",
    "null-byte": "not a plain file name",
    "number": "not a plain file name",
    "one-shard-unlisted": "missing",
    "parent-folder": "not a plain file name",
    "subfolder": "not a plain file name",
    "tensor-not-in-shard": "is missing, but model.safetensors.index.json lists it",
    "weight-map-a-list": "no weight_map",
}
CONFIG = {
    "a-list": "not a JSON object",
    "architecture-a-string": "architectures is not a list",
    "architecture-classifier": "'LlamaForSequenceClassification'",
    "architecture-other-class": "'LlamaForCausalLM' of family 'nemotron-nas'",
    "biases-that-are-not-there": "q_proj.bias' is missing",
    "blocks-missing": "block_configs",
    "blocks-of-numbers": "block_configs[0] cannot be read",
    "blocks-that-deny-an-attention": "layer 3 has no attention",
    "blocks-too-few": "block_configs does not list the 4 layers",
    "blocks-with-linear": "block_configs[3] has linear",
    "blocks-with-mult-a-string": "block_configs[3]",
    "blocks-with-mult-infinite": "block_configs[3]",
    "blocks-with-mult-nan": "block_configs[3]",
    "blocks-with-own-kv-heads": "block_configs[3] has",
    "blocks-with-wide-mlp": "layers.3.mlp.gate_proj.weight",
    "blocks-without-ffn": "block_configs[0] cannot be read",
    "deeply-nested": "not JSON",
    "empty": "not JSON",
    "family-a-list": "['llama'] is not known",
    "family-gpt2": "'gpt2' is not known",
    "family-missing": "None is not known",
    "family-gemma2": "'gemma2' is not known",
    "head-dim-other": "q_proj.weight",
    "heads-not-of-kv-heads": "num_attention_heads 4 is not a multiple",
    "heads-other": "q_proj.weight",
    "heads-zero": "num_attention_heads is 0",
    "hidden-missing": "hidden_size is None",
    "hidden-other": "shape",
    "kv-heads-other": "k_proj.weight",
    "layers-10-to-12": "1000000000000",
    "layers-10-to-20": "100000000000000000000",
    "layers-a-string": "num_hidden_layers is '4'",
    "layers-fewer": "is in layer 3",
    "layers-fractional": "num_hidden_layers is 4.0",
    "layers-missing": "num_hidden_layers is None",
    "layers-more": "layer 4 has no attention",
    "layers-nan": "num_hidden_layers is nan",
    "layers-negative": "num_hidden_layers is -4",
    "layers-true": "num_hidden_layers is True",
    "layers-zero": "num_hidden_layers is 0",
    "mlp-biases-that-are-not-there": "gate_proj.bias' is missing",
    "mlp-other": "gate_proj.weight",
    "not-json": "not JSON",
    "not-utf8": "not JSON",
    "number-of-5000-digits": "not JSON",
    "vocab-other": "model.embed_tokens.weight",
}


def refuse(cli: Cli, model: Path, *words: str) -> None:
    """Prune and inspect both refuse; nothing appears beside the model, nothing changes in it."""
    links = {name: os.lstat(model / name).st_mtime_ns for name in os.listdir(model)}
    before = digest(model)
    assert_refused(cli("prune", model, "-o", model.parent / "out", "--last", 1), *words)
    assert_refused(cli("inspect", model, "--json"), *words)
    assert os.listdir(model.parent) == [model.name]
    assert digest(model) == before
    assert {name: os.lstat(model / name).st_mtime_ns for name in os.listdir(model)} == links


@pytest.mark.parametrize(
    ("folder", "known"), [("weights", WEIGHTS), ("index", INDEX), ("config", CONFIG)]
)
def test_no_file_of_the_corpus_is_forgotten(folder: str, known: dict[str, str]) -> None:
    assert {path.stem for path in (HERE / folder).iterdir()} == set(known)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights(name: str, model: Path, cli: Cli) -> None:
    (model / "model.safetensors").write_bytes((HERE / "weights" / f"{name}.safetensors").read_bytes())
    refuse(cli, model, str(model / "model.safetensors"), WEIGHTS[name])


@pytest.mark.parametrize("name", INDEX)
def test_index(name: str, tmp_path: Path, cli: Cli) -> None:
    model = checkpoints.make(tmp_path / "model", Spec(shards=2))
    index = model / "model.safetensors.index.json"
    index.write_bytes((HERE / "index" / f"{name}.json").read_bytes())
    refuse(cli, model, str(model), INDEX[name])


@pytest.mark.parametrize("name", CONFIG)
def test_config(name: str, model: Path, cli: Cli) -> None:
    (model / "config.json").write_bytes((HERE / "config" / f"{name}.json").read_bytes())
    refuse(cli, model, str(model), CONFIG[name])


@pytest.mark.parametrize(("spoil", "words"), ATTACKS.values(), ids=ATTACKS)
def test_folder(spoil: Spoil, words: tuple[str, ...], model: Path, cli: Cli) -> None:
    spoil(model)
    refuse(cli, model, str(model), *words)


@pytest.mark.parametrize("name", ["overlapping", "header-not-json", "pickle"])
def test_as_a_process_of_its_own(name: str, model: Path, program: Cli) -> None:
    (model / "model.safetensors").write_bytes((HERE / "weights" / f"{name}.safetensors").read_bytes())
    refuse(program, model, str(model / "model.safetensors"), WEIGHTS[name])
