"""verify: the proof holds for what prune made, and for nothing else."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from checkpoints import Outcome, Spec, assert_refused, digest, read_json
from hypothesis import given, settings
from hypothesis import strategies as st

import surgeon
from surgeon.errors import SurgeonError

Cli = Callable[..., Outcome]
NORM = "model.layers.2.post_attention_layernorm.weight"


@pytest.fixture
def out(model: Path, tmp_path: Path) -> Path:
    """The model without the attention of its last two layers."""
    surgeon.prune(model, tmp_path / "out", last=2)
    return tmp_path / "out"


def change_config(out: Path, **changes: Any) -> None:
    (out / "config.json").write_text(json.dumps(read_json(out / "config.json") | changes))


def rewrite(out: Path, change: Callable[[checkpoints.Weights], object]) -> None:
    """The weight file again, after a change; the new file is valid."""
    tensors = checkpoints.read_file(out / "model.safetensors")
    change(tensors)
    checkpoints.write_weights(out / "model.safetensors", tensors)


def differs(cli: Cli, out: Path, model: Path, *words: str) -> None:
    """One difference, which says all the words; code 1; the last line says NOT."""
    before = digest(out)
    outcome = cli("verify", out, "--against", model)
    assert (outcome.code, outcome.err) == (1, "")
    lines = outcome.out.splitlines()
    assert lines[-1] == f"{out} is NOT model after removing attention of layers 2-3 of 4."
    assert len(lines) == 2
    for word in words:
        assert word in lines[0]
    data = json.loads(cli("verify", out, "--against", model, "--json").out)
    assert data["differences"] == lines[:1]
    assert digest(out) == before


def test_the_proof_in_words(model: Path, out: Path, cli: Cli) -> None:
    outcome = cli("verify", out, "--against", model)
    # 10 of 39 tensors are attention: 2 layers of norm, q, k, v, o
    assert outcome == Outcome(
        0,
        f"{out} is model after removing attention of layers 2-3 of 4.\n"
        "kept:    29 tensors, 14.6 KB, every byte equal\n"
        "removed: 10 tensors, 3.14 KB\n"
        "files:   5 beside the weights, as they should be\n",
        "",
    )


def test_every_byte_counts(model: Path, out: Path, cli: Cli) -> None:
    # one bit, anywhere in the data
    path = out / "model.safetensors"
    raw = path.read_bytes()
    data = len(raw) - sum(len(t[2]) for t in checkpoints.read_file(path).values())
    for offset in (data, data + 1, (data + len(raw)) // 2, len(raw) - 1):
        spoiled = bytearray(raw)
        spoiled[offset] ^= 0x10
        path.write_bytes(spoiled)
        differs(cli, out, model, "differs from the source's")
    path.write_bytes(raw)
    assert surgeon.verify(out, model).ok


def test_the_source_may_not_change_either(model: Path, out: Path) -> None:
    raw = bytearray((model / "model.safetensors").read_bytes())
    raw[-1] ^= 1  # the last byte of model.norm.weight
    (model / "model.safetensors").write_bytes(raw)
    assert surgeon.verify(out, model).differences == (
        "tensor 'model.norm.weight' differs from the source's 'model.norm.weight'",
    )


def test_two_tensors_that_changed_places(model: Path, out: Path) -> None:
    def swap(tensors: checkpoints.Weights) -> None:
        one, two = (f"model.layers.{n}.mlp.up_proj.weight" for n in (0, 1))
        tensors[one], tensors[two] = tensors[two], tensors[one]

    rewrite(out, swap)
    assert [line.split("'")[1] for line in surgeon.verify(out, model).differences] == [
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    ]


def test_another_dtype(model: Path, out: Path, cli: Cli) -> None:
    rewrite(out, lambda t: t.update({NORM: ("F16", *t[NORM][1:])}))
    differs(cli, out, model, repr(NORM), "is F16, not the BF16 of")


def test_a_missing_tensor(tmp_path: Path, cli: Cli) -> None:
    # one that a Llama need not have: others are not even a checkpoint without
    model = checkpoints.make(tmp_path / "model", inv_freq=True)
    out = tmp_path / "out"
    surgeon.prune(model, out, last=2)
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    rewrite(out, lambda t: t.pop(name))
    differs(cli, out, model, repr(name), "is missing")
    rewrite(out, lambda t: t.pop("model.norm.weight"))
    assert_refused(cli("verify", out, "--against", model), "model.norm.weight", "missing")


@pytest.mark.parametrize(
    "name", ["model.extra", "lm_head.bias", "model.layers.1.self_attn.q_proj.weight_scale"]
)
def test_an_extra_tensor(name: str, model: Path, out: Path, cli: Cli) -> None:
    rewrite(out, lambda t: t.update({name: ("U8", (1,), b"\0")}))
    differs(cli, out, model, repr(name), "comes from nowhere")


def test_a_removed_attention_that_is_back(model: Path, out: Path, cli: Cli) -> None:
    source = checkpoints.read_file(model / "model.safetensors")
    name = "model.layers.2.self_attn.q_proj.weight"
    rewrite(out, lambda t: t.update({name: source[name]}))
    assert_refused(
        cli("verify", out, "--against", model), "config.json says that layer 2 has no attention"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rms_norm_eps": 1e-6}, "another 'rms_norm_eps'"),
        ({"rope_theta": 10000.0}, "another 'rope_theta'"),
        ({"rope_theta": 500000}, "another 'rope_theta'"),  # 500000 is not 500000.0
        ({"max_position_embeddings": 4096}, "another 'max_position_embeddings'"),
        ({"new": 1}, "has 'new'"),
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "another 'auto_map'"),
    ],
)
def test_a_changed_config(
    changes: dict[str, Any], words: str, model: Path, out: Path, cli: Cli
) -> None:
    change_config(out, **changes)
    differs(cli, out, model, words)


def test_a_config_field_that_is_gone(model: Path, out: Path, cli: Cli) -> None:
    config = read_json(out / "config.json")
    del config["hidden_act"]
    (out / "config.json").write_text(json.dumps(config))
    differs(cli, out, model, "lacks 'hidden_act'")


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "LICENSE.txt", "modeling_surgeon.py", "configuration_surgeon.py"]
)
def test_changed_and_missing_files(name: str, model: Path, out: Path, cli: Cli) -> None:
    with open(out / name, "ab") as stream:
        stream.write(b" ")
    differs(cli, out, model, repr(name), "not the one that belongs there")
    (out / name).unlink()
    differs(cli, out, model, repr(name), "is missing")


@pytest.mark.parametrize("metadata", [{}, {"format": "tf"}, {"format": "pt", "by": "me"}])
def test_changed_metadata_of_a_weight_file(
    metadata: dict[str, str], model: Path, out: Path, cli: Cli
) -> None:
    # transformers decides by it how, and whether, to load the file
    path = out / "model.safetensors"
    checkpoints.write_weights(path, checkpoints.read_file(path), metadata)
    differs(cli, out, model, "model.safetensors", "metadata")


def test_another_plan_in_the_record(model: Path, out: Path) -> None:
    record = read_json(out / "surgery.json")
    record["plan"]["attn"] = "1,3"
    (out / "surgery.json").write_text(json.dumps(record))
    assert not surgeon.verify(out, model).ok


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "has no plan"),
        ('{"plan": {}}', "plan: cannot be read"),
        ('{"plan": {"num_layers": 5, "attn": "4"}}', "was cut from a model of 5 layers"),
        ('{"plan": {"num_layers": 4, "attn": "4"}}', "out of range"),
        ('{"plan": {"num_layers": 4, "attn": ""}}', "removes nothing"),
    ],
)
def test_a_record_that_says_nothing(record: str, words: str, model: Path, out: Path, cli: Cli) -> None:
    (out / "surgery.json").write_text(record)
    assert_refused(cli("verify", out, "--against", model), words)


def test_a_folder_that_surgeon_did_not_make(model: Path, out: Path, cli: Cli) -> None:
    assert_refused(cli("verify", model, "--against", model), "has no surgery.json")
    assert_refused(cli("verify", out, "--against", out.parent / "gone"), "no such folder")
    assert_refused(cli("verify", out, "--against", out), "is another one")


def test_a_result_of_another_model(model: Path, out: Path, tmp_path: Path) -> None:
    other = checkpoints.make(tmp_path / "other", vocab=48)
    proof = surgeon.verify(out, other)
    assert any("model.embed_tokens.weight" in line for line in proof.differences)
    with pytest.raises(SurgeonError, match="another one"):
        surgeon.verify(out, checkpoints.make(tmp_path / "longer", layers=5))


def stub(tmp_path: Path) -> tuple[Path, Path]:
    model = checkpoints.make(tmp_path / "model", mlp=352)
    surgeon.prune(model, tmp_path / "out", layers="1", drop="mlp", portable=True)
    return model, tmp_path / "out"


@pytest.mark.parametrize(
    ("name", "at", "words"),
    [
        ("model.layers.1.mlp.down_proj.weight", -1, "not all zeros"),
        ("model.layers.1.mlp.gate_proj.weight", 0, "not all zeros"),
        ("model.layers.1.post_attention_layernorm.weight", 1, "not all ones"),
        ("model.layers.0.mlp.down_proj.weight", 2 * 352, "differs from"),  # the first byte of padding
        ("model.layers.0.mlp.down_proj.weight", -1, "differs from"),
        ("model.layers.0.mlp.up_proj.weight", -1, "differs from"),
        ("model.layers.0.mlp.up_proj.weight", 2 * 352 * 16, "differs from"),
    ],
)
def test_zeros_must_be_zeros(name: str, at: int, words: str, tmp_path: Path) -> None:
    model, out = stub(tmp_path)

    def change(tensors: checkpoints.Weights) -> None:
        dtype, shape, data = tensors[name]
        spoiled = bytearray(data)
        spoiled[at] ^= 1
        tensors[name] = dtype, shape, bytes(spoiled)

    rewrite(out, change)
    (line,) = surgeon.verify(out, model).differences
    assert repr(name) in line
    assert words in line


def test_a_zero_mlp_needs_a_portable_record(tmp_path: Path) -> None:
    model, out = stub(tmp_path)
    record = read_json(out / "surgery.json") | {"portable": False}
    (out / "surgery.json").write_text(json.dumps(record))
    assert any("comes from nowhere" in line for line in surgeon.verify(out, model).differences)


def test_norms_of_a_zero_mlp_with_odd_lengths(tmp_path: Path) -> None:
    # integers in a norm's place must be a difference, not a crash
    model, out = stub(tmp_path)
    name = "model.layers.1.post_attention_layernorm.weight"
    rewrite(out, lambda t: t.update({name: ("I32", (16,), b"\1\0\0\0" * 16)}))
    assert [line for line in surgeon.verify(out, model).differences if repr(name) in line]


@settings(max_examples=25)
@given(offset=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, offset: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("flip")
    model = checkpoints.make(folder / "model", Spec(layers=2))
    surgeon.prune(model, folder / "out", last=1, max_shard_size="2KB")
    files = sorted(os.listdir(folder / "out"))
    files.remove("README.md")  # the card is for people, it may be edited
    files.remove("surgery.json")  # it is what verify believes
    files = [name for name in files if not name.endswith(".index.json")]
    path = folder / "out" / files[offset % len(files)]
    raw = bytearray(path.read_bytes())
    at = offset % len(raw)
    if path.suffix == ".safetensors" and raw[at : at + 1] == b" ":
        return  # a header's padding
    raw[at] ^= 1 << bit
    same = path.suffix == ".json" and _equal(bytes(raw), path.read_bytes())
    path.write_bytes(raw)
    try:
        proof = surgeon.verify(folder / "out", model)
    except SurgeonError:
        return
    assert not proof.ok or (same and path.name == "config.json")


def _equal(one: bytes, two: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(two))
    except ValueError:
        return False


@pytest.mark.parametrize("name", ["modeling_evil.py", "adapter_config.json", "stray.safetensors"])
def test_a_file_that_does_not_belong(name: str, model: Path, out: Path, cli: Cli) -> None:
    (out / name).write_text("{}")
    differs(cli, out, model, name, "does not belong there")


def test_a_graph_and_an_edited_card_are_no_differences(model: Path, out: Path) -> None:
    for name in ("model.onnx", "model.onnx.data", "genai_config.json", "README.md"):
        (out / name).write_text("mine")
    assert surgeon.verify(out, model).ok
