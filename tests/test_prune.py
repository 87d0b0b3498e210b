"""Cuts of every kind of checkpoint, from folder to folder, compared byte by byte."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from checkpoints import ONE, Spec, digest, expected, read_json, read_weights

import surgeon
from surgeon.errors import SurgeonError
from surgeon.plan import Plan, Sublayer

Tensor = tuple[str, checkpoints.Shape, bytes]
MIXED = {"q_proj": "F8_E4M3", "up_proj": "I32", "layernorm": "F32", "embed": "F16", "lm_head": "F32"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": True},
        {"kv_heads": 4},
        {"kv_heads": 1},
        {"attention_bias": True},
        {"attention_bias": True, "mlp_bias": True},
        {"inv_freq": True},
        {"head_dim": 8},
        {"style": 5},
        {"dtypes": MIXED},
        {"gptq": True, "hidden": 32, "mlp": 64},
        {"metadata": {}},
        {"layers": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("shards", [1, 2, 5])
@pytest.mark.parametrize("drop", ["attn", "mlp", "block"])
def test_kept_tensors_keep_their_bytes(
    changes: dict[str, Any], shards: int, drop: str, tmp_path: Path
) -> None:
    spec = Spec(shards=shards, **changes)
    if spec.layers == 1 and (drop == "block" or shards > 2):
        pytest.skip("nothing would be left, or too little to share out")
    model = checkpoints.make(tmp_path / "model", spec)
    before = digest(model)
    report = surgeon.prune(model, tmp_path / "out", drop=drop, last=1, max_shard_size="3KB")
    gone = (spec.layers - 1,)
    attn, mlp = (gone if drop in (kind, "block") else () for kind in ("attn", "mlp"))
    wanted = expected(checkpoints.weights(spec), spec.layers, attn, mlp)
    assert read_weights(tmp_path / "out") == wanted
    weight_map = read_json(tmp_path / "out" / "model.safetensors.index.json")["weight_map"]
    for name, file in weight_map.items():
        assert name in checkpoints.read_file(tmp_path / "out" / file)
    assert weight_map.keys() == wanted.keys()
    assert surgeon.verify(tmp_path / "out", model).ok
    assert digest(model) == before
    assert report.files == tuple(sorted(os.listdir(tmp_path / "out")))
    assert surgeon.inspect(tmp_path / "out").layers == spec.layers - (drop == "block")


def test_shards_that_straddle_layers_become_one_file(tmp_path: Path) -> None:
    spec = Spec(shards=7)
    model = checkpoints.make(tmp_path / "model", spec)
    surgeon.prune(model, tmp_path / "out", layers="0,2")
    assert not (tmp_path / "out" / "model.safetensors.index.json").exists()
    assert read_weights(tmp_path / "out") == expected(checkpoints.weights(spec), 4, attn=(0, 2))


def test_two_half_blocks_become_a_whole_one(model: Path, tmp_path: Path) -> None:
    plan = Plan(4, frozenset({(1, Sublayer.MLP), (2, Sublayer.ATTENTION)}))
    surgeon.prune(model, tmp_path / "out", plan)
    config = read_json(tmp_path / "out" / "config.json")
    # attention of 1 and MLP of 2 are block 1: an ordinary Llama of three layers
    assert config == read_json(model / "config.json") | {"num_hidden_layers": 3}
    assert read_weights(tmp_path / "out") == expected(read_weights(model), 4, attn=(2,), mlp=(1,))
    assert not list((tmp_path / "out").glob("*.py"))


def test_other_files(tmp_path: Path) -> None:
    kept = {
        "generation_config.json": b"{}",
        "tokenizer.model": b"\x00\x01",
        "tokenizer_config.json": b"{ }",
        "special_tokens_map.json": b"{}\n",
        "chat_template.jinja": b"{{ x }}",
        "LICENSE": b"terms",
        "USE_POLICY.md": b"be good",
        "vocab.json": b"{}",
        "merges.txt": b"a b",
    }
    left = {
        "consolidated.safetensors": b"not even a header",
        "pytorch_model.bin": b"\x80\x02",
        "original/consolidated.00.pth": b"PK",
        ".git/config": b"[core]",
        ".gitattributes": b"x",
        "README.md": b"# theirs",
        "modeling_evil.py": b"raise SystemExit",
        "tokenizer_evil.py": b"raise SystemExit",
        "tokenizer.safetensors": b"x",
        "onnx/model.onnx": b"x",
        "training_args.bin": b"x",
    }
    model = checkpoints.make(tmp_path / "model", files=kept | left)
    surgeon.prune(model, tmp_path / "out", last=1)
    out = tmp_path / "out"
    for name, data in kept.items():
        assert (out / name).read_bytes() == data
    ours = {"README.md", "config.json", "surgery.json", "model.safetensors"}
    code = {"configuration_surgeon.py", "modeling_surgeon.py"}
    assert set(os.listdir(out)) == ours | code | set(kept) | {"tokenizer.json", "LICENSE.txt"}
    assert (out / "README.md").read_bytes() != b"# theirs"


def test_a_single_file_wins_over_an_index(tmp_path: Path) -> None:
    model = checkpoints.make(tmp_path / "model")
    checkpoints.write_index(model, {"model.norm.weight": "model-00009-of-00009.safetensors"})
    surgeon.prune(model, tmp_path / "out", last=1)
    assert read_weights(tmp_path / "out") == expected(read_weights(model), 4, attn=(3,))


def test_a_folder_of_the_hub_cache(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--meta-llama--Llama-3.2-1B"
    snapshot = home / "snapshots" / commit
    plain = checkpoints.make(tmp_path / "plain", shards=2)
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    for number, path in enumerate(sorted(plain.iterdir())):
        os.rename(path, home / "blobs" / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    report = surgeon.prune(snapshot, tmp_path / "out", last=1)
    assert report.source == "meta-llama/Llama-3.2-1B"
    source = read_json(tmp_path / "out" / "surgery.json")["source"]
    assert (source["model"], source["revision"]) == ("meta-llama/Llama-3.2-1B", commit)
    assert "base_model: meta-llama/Llama-3.2-1B\n" in (tmp_path / "out" / "README.md").read_text()
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    assert surgeon.verify(tmp_path / "out", snapshot).ok


def test_the_record(model: Path, tmp_path: Path) -> None:
    surgeon.prune(model, tmp_path / "out", last=2, keep_last=True, max_shard_size="5GB")
    record = read_json(tmp_path / "out" / "surgery.json")
    fingerprint = record["source"].pop("fingerprint")
    assert len(fingerprint) == 64
    assert record == {
        "surgeon": surgeon.__version__,
        "source": {"model": "model", "revision": None},
        "plan": {"num_layers": 4, "attn": "1-2", "mlp": ""},
        "words": "removing attention of layers 1-2 of 4; layer 3 kept",
        "portable": False,
        "max_shard_size": 5_000_000_000,
    }


def test_the_same_cut_twice_is_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        surgeon.prune(model, tmp_path / name, last=1)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_pruning_a_pruned_model(model: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    surgeon.prune(model, first, last=1, keep_last=True)
    surgeon.prune(first, second, layers="0", drop="mlp")
    assert surgeon.verify(second, first).ok
    weights = expected(read_weights(model), 4, attn=(2,), mlp=(0,))
    assert read_weights(second) == weights
    record = read_json(second / "surgery.json")
    assert record["source"]["surgery"] == read_json(first / "surgery.json")
    # attention 0 waits for MLP 1 in vain: attention 1 comes first
    assert surgeon.inspect(second).attention == (True, True, False, True)
    assert surgeon.inspect(second).mlp == (False, True, True, True)
    with pytest.raises(SurgeonError, match="removes nothing"):
        surgeon.prune(first, third, layers="2")
    with pytest.raises(SurgeonError, match="was cut from"):
        surgeon.verify(second, model)
    surgeon.prune(second, third, layers="0,2", drop="block")
    # what is left is whole again, and so it is a plain Llama again
    config = read_json(third / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["model_type"] == "llama"
    assert not {"auto_map", "block_configs"} & config.keys()
    assert surgeon.verify(third, second).ok


def grown(name: str, tensor: Tensor, width: int, padded: int) -> Tensor:
    """An MLP's matrix or bias as a portable cut must have it: zeros behind each row and column."""
    dtype, shape, data = tensor
    if "down_proj.weight" in name:
        row, longer = (columns * checkpoints.BYTES[dtype] for columns in (width, padded))
        rows = (data[i : i + row].ljust(longer, b"\0") for i in range(0, len(data), row))
        return dtype, (shape[0], padded), b"".join(rows)
    if "gate_proj" in name or "up_proj" in name:
        shape = (padded, *shape[1:])
        return dtype, shape, data.ljust(checkpoints.size_of(dtype, shape), b"\0")
    return tensor


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("width", "padded"), [(24, 256), (256, 256), (352, 512)], ids=["narrow", "even", "wide"]
)
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_portable(width: int, padded: int, bias: bool, dtype: str, tmp_path: Path) -> None:
    spec = Spec(mlp=width, mlp_bias=bias, dtype=dtype, shards=2)
    model = checkpoints.make(tmp_path / "model", spec)
    surgeon.prune(model, tmp_path / "out", layers="1", drop="mlp", portable=True, max_shard_size=9000)
    found = read_weights(tmp_path / "out")
    wanted = expected(checkpoints.weights(spec), 4, mlp=(1,))
    stub = {name: found.pop(name) for name in list(found) if name not in wanted}
    base = "model.layers.1."
    zeros: dict[str, checkpoints.Shape] = {
        f"{base}mlp.gate_proj.weight": (256, 16),
        f"{base}mlp.up_proj.weight": (256, 16),
        f"{base}mlp.down_proj.weight": (16, 256),
    }
    if bias:
        zeros |= {
            f"{base}mlp.gate_proj.bias": (256,),
            f"{base}mlp.up_proj.bias": (256,),
            f"{base}mlp.down_proj.bias": (16,),
        }
    assert stub == {
        f"{base}post_attention_layernorm.weight": (dtype, (16,), ONE[dtype] * 16),
        **{n: (dtype, s, bytes(checkpoints.size_of(dtype, s))) for n, s in zeros.items()},
    }
    for name, tensor in wanted.items():
        assert found[name] == grown(name, tensor, width, padded), name
    proof = surgeon.verify(tmp_path / "out", model)
    assert proof.ok, proof.differences
    matrices = (5 if bias else 3) * 3  # of three layers
    assert (proof.added, proof.padded) == (len(stub), 0 if width == padded else matrices)
    config = read_json(tmp_path / "out" / "config.json")
    assert config["intermediate_size"] == padded
    # when the zero MLP is as wide as all others, the result is an ordinary Llama
    assert config["model_type"] == ("llama" if padded == 256 else "nemotron-nas")
    assert not any(block["ffn"]["no_op"] for block in config.get("block_configs", ()))
    assert surgeon.inspect(tmp_path / "out").mlp == (True,) * 4
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("zeros were added" in card, "has the bytes it had" in card) == (True, False)
    # a portable cut is a model like any other
    surgeon.prune(tmp_path / "out", tmp_path / "again", layers="0")
    assert surgeon.verify(tmp_path / "again", tmp_path / "out").ok


def test_portable_changes_nothing_where_nothing_is_needed(tmp_path: Path) -> None:
    model = checkpoints.make(tmp_path / "model", mlp=352)
    surgeon.prune(model, tmp_path / "plain", last=1, drop="block", portable=True)
    assert read_weights(tmp_path / "plain") == expected(read_weights(model), 4, attn=(3,), mlp=(3,))
    even = checkpoints.make(tmp_path / "even", mlp=256)
    surgeon.prune(even, tmp_path / "out", last=1, portable=True)
    assert "is left has the bytes it had" in (tmp_path / "out" / "README.md").read_text()
    assert read_weights(tmp_path / "out") == expected(read_weights(even), 4, attn=(3,))


def test_portable_is_refused_for_quantized_weights(tmp_path: Path) -> None:
    model = checkpoints.make(tmp_path / "model", gptq=True, hidden=32, mlp=64)
    for options in ({"last": 1}, {"last": 1, "drop": "mlp"}):
        with pytest.raises(SurgeonError, match="--portable would have to add or pad quantized"):
            surgeon.prune(model, tmp_path / "out", portable=True, **options)
    assert os.listdir(tmp_path) == ["model"]


def test_a_plan_for_another_model(model: Path, tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match="made for 5 layers, but model has 4"):
        surgeon.prune(model, tmp_path / "out", Plan.last(5, 1))
    with pytest.raises(SurgeonError, match="exactly one"):
        surgeon.prune(model, tmp_path / "out", Plan.last(4, 1), last=1)


def test_a_trained_model(reference: Path, tmp_path: Path) -> None:
    report = surgeon.prune(
        reference, tmp_path / "out", fraction="33%", keep_last=True, max_shard_size="9MB"
    )
    assert report.words == "removing attention of layers 15-22 of 24; layer 23 kept"
    assert read_weights(tmp_path / "out") == expected(read_weights(reference), 24, attn=range(15, 23))
    assert surgeon.verify(tmp_path / "out", reference).ok


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    spec = Spec(layers=9, hidden=2048, heads=16, kv_heads=4, head_dim=128, mlp=16384, shards=2)
    model = checkpoints.make_sparse(tmp_path / "model", spec)
    assert sum(path.stat().st_size for path in model.iterdir()) > 2e9
    code = """
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "surgeon", *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    # a process in between, since the peak counts over all children that a process ever had
    args = ["prune", str(model), "-o", str(tmp_path / "out"), "--last", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 64 << 20
    data = json.loads((tmp_path / "out" / "surgery.json").read_text())
    assert data["plan"]["attn"] == "8"
