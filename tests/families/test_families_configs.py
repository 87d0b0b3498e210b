"""What the config.json of a cut says about its family, and what transformers reads from it."""

import json
import shutil

import checkpoints
import pytest
from family_rows import CUTS, LAYERS, NAS, ROWS

import surgeon
from surgeon.config import rope_is_only_new_style
from surgeon.errors import SurgeonError
from surgeon.families import FAMILIES

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.models

WORDS = "Once upon a time, there"


def read(folder, file="config.json"):
    return json.loads((folder / file).read_text(encoding="utf-8"))


def changed(source, folder, drop=(), file="config.json", **fields):
    """A copy of a model with other words in a config."""
    shutil.copytree(source, folder)
    config = {key: value for key, value in read(source, file).items() if key not in drop}
    (folder / file).write_text(json.dumps(config | fields), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_defaults_are_those_of_the_class(name):
    """Of every field that the code reads, so that a config.json may leave it out."""
    family, prefix = FAMILIES[name], FAMILIES[name].prefix
    own = getattr(transformers, f"{prefix}Config")().to_dict()
    theirs = transformers.LlamaConfig().to_dict()
    fields = {
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "max_window_layers",
        "no_rope_layer_interval",
        *("attention_bias", "mlp_bias", "hidden_act"),
    }
    for field in fields - family.defaults.keys():
        if field == "head_dim":
            assert own.get(field) in (None, own["hidden_size"] // own["num_attention_heads"])
        elif field in own and field in theirs:
            assert own[field] == theirs[field], field
    for field, value in family.defaults.items():
        if field == "rope_theta":
            found = own.get("rope_theta") or own["rope_parameters"]["rope_theta"]
            assert found == value
        elif field == "sliding_window":  # shown only if it is used
            config = getattr(transformers, f"{prefix}Config")
            used = {} if name == "mistral" else {"use_sliding_window": True}
            assert config(**used).sliding_window == value
        else:
            assert own.get(field) == value, field


@pytest.mark.parametrize("name", ROWS)
def test_verify_and_inspect(name, cut, source):
    for key, removed in CUTS.items():
        assert surgeon.verify(cut(name, key), source(name)).ok
        found = surgeon.inspect(cut(name, key))
        assert sum(found.attention) == LAYERS - sum(kind == "attn" for _, kind in removed)
        kind = {ROWS[name].model_type: None, NAS: "surgeon"}.get(found.dialect, "blocks")
        names = {path.name for path in cut(name, key).glob("*.py")}
        assert names == ({f"configuration_{kind}.py", f"modeling_{kind}.py"} if kind else set())
        assert bool(names) == ("block_configs" in read(cut(name, key)))
    assert "trust_remote_code=True" in (cut(name, "attn") / "README.md").read_text(encoding="utf-8")


def test_a_count_of_layers_follows_the_plan(source, load, tmp_path):
    """Layers from 3 on have windows; of 0, 3, 4, 5 those are all but one."""
    bare = changed(source("qwen2-window"), tmp_path / "bare", drop=["layer_types"])
    surgeon.prune(bare, tmp_path / "out", drop="block", layers="1,2")
    config = read(tmp_path / "out")
    assert config["max_window_layers"] == 1
    assert config["layer_types"] == ["full_attention", *["sliding_attention"] * 3]
    # and older readers, which know only the count, find the same
    del config["layer_types"]
    again = transformers.Qwen2Config(**config)
    assert again.layer_types == ["full_attention", *["sliding_attention"] * 3]


def test_what_the_class_works_out_from_layer_numbers_is_written_down(source, tmp_path):
    bare = changed(source("smollm3"), tmp_path / "bare", drop=["layer_types", "no_rope_layers"])
    surgeon.prune(bare, tmp_path / "out", drop="block", layers="0,3")
    assert read(tmp_path / "out")["no_rope_layers"] == [0, 1, 1, 0]
    surgeon.prune(source("smollm3"), tmp_path / "other", drop="block", layers="0,3")
    assert read(tmp_path / "other")["no_rope_layers"] == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("qwen3-window", {"layer_types": ["full_attention"]}, "does not list the 6 layers"),
        ("qwen3-window", {"layer_types": ["chunked_attention"] * 6}, "'chunked_attention'"),
        ("qwen3-window", {"sliding_window": "7"}, "sliding_window is '7'"),
        ("qwen2-window", {"layer_types": None, "max_window_layers": None}, "max_window_layers"),
        ("smollm3", {"no_rope_layers": [1, 0]}, "does not list the 6 layers"),
        ("smollm3", {"no_rope_layers": None, "no_rope_layer_interval": 0}, "no_rope_layer_interval"),
    ],
)
def test_patterns_that_make_no_sense(name, fields, words, source, tmp_path):
    with pytest.raises(SurgeonError, match=words):
        surgeon.prune(changed(source(name), tmp_path / "model", **fields), tmp_path / "out", last=1)


@pytest.mark.parametrize("name", ["qwen2", "granite", "smollm3"])
@pytest.mark.parametrize("key", ["block", "attn"])
@pytest.mark.parametrize("style", ["flat", "new"])
def test_rope_of_either_style(style, key, name, source, pruned, load, tmp_path, ids):
    """A new one alone would be 10000 to transformers 4 and to others, so cuts have both."""
    rope = {"rope_theta": 5e4, "rope_type": "linear", "factor": 2.0}
    scaling = {"rope_type": "linear", "factor": 2.0}
    fields = {"rope_theta": 5e4, "rope_scaling": scaling} if style == "flat" else {}
    fields |= {"rope_parameters": rope} if style == "new" else {}
    drop = ["rope_theta", "rope_scaling", "rope_parameters"]
    model = changed(source(name), tmp_path / "model", drop=drop, **fields)
    assert rope_is_only_new_style(read(model)) == (style == "new")
    surgeon.prune(model, tmp_path / "out", surgeon.Plan(LAYERS, CUTS[key]))
    config = read(tmp_path / "out")
    assert (config["rope_theta"], config["rope_scaling"]) == (5e4, scaling)
    assert config.get("rope_parameters") == (rope if style == "new" else None)
    found = load(tmp_path / "out").model.rotary_emb.inv_freq
    width = len(found)
    assert torch.allclose(found, 5e4 ** -(torch.arange(width) / width) / 2, rtol=1e-5)


@pytest.mark.parametrize(("key", "dialect"), [("mlp", "llama"), ("scattered", "nemotron-nas")])
def test_portable_qwen2_is_a_llama_with_zero_biases(key, dialect, source, load, tmp_path, ids):
    """Even a plain one, where zero MLPs are as wide as the others."""
    out = tmp_path / "out"
    report = surgeon.prune(source("qwen2"), out, surgeon.Plan(LAYERS, CUTS[key]), portable=True)
    assert report.dialect == dialect
    config = read(out)
    assert config["attention_bias"] is True
    assert config["tokenizer_class"] == "Qwen2Tokenizer"  # no Llama's, if the tokenizer names none
    assert not {"sliding_window", "layer_types", "max_window_layers"} & config.keys()
    tensors = checkpoints.read_weights(out)
    zeros = [name for name in tensors if name.endswith("o_proj.bias")]
    assert len(zeros) == sum(kind == "attn" for _, kind in surgeon.Plan(LAYERS, CUTS[key]).sites())
    assert all(not any(tensors[name][2]) for name in zeros)
    verified = surgeon.verify(out, source("qwen2"))
    assert verified.ok, verified.differences
    assert verified.added >= len(zeros)
    with torch.no_grad():
        got = load(out, dtype=torch.float64)(ids).logits
        surgeon.prune(source("qwen2"), tmp_path / "own", surgeon.Plan(LAYERS, CUTS[key]))
        want = load(tmp_path / "own", dtype=torch.float64)(ids).logits
    assert (got - want).abs().max() < 1e-12 * want.abs().max()


def test_a_bias_that_is_not_zero_is_found(source, tmp_path):
    out = tmp_path / "out"
    surgeon.prune(source("qwen2"), out, surgeon.Plan(LAYERS, CUTS["attn"]), portable=True)
    tensors = checkpoints.read_file(out / "model.safetensors")
    name = "model.layers.0.self_attn.o_proj.bias"
    dtype, shape, data = tensors[name]
    tensors[name] = (dtype, shape, b"\1" + data[1:])
    checkpoints.write_weights(out / "model.safetensors", tensors, {"format": "pt"})
    differences = surgeon.verify(out, source("qwen2")).differences
    assert differences == (f"tensor {name!r} of a zero bias is not all zeros",)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mistral-window", "sliding windows"),
        ("qwen2-window", "sliding windows"),
        ("qwen3", "norms of q and k"),
        ("granite", "multipliers"),
        ("smollm3", "attention without rope"),
    ],
)
def test_what_cannot_be_portable(name, words, source, tmp_path):
    with pytest.raises(SurgeonError, match=f"nemotron-nas dialect, which has no words for {words}"):
        surgeon.prune(source(name), tmp_path / "out", layers="2", portable=True)
    surgeon.prune(source(name), tmp_path / "out", layers="2", drop="block", portable=True)
    assert read(tmp_path / "out")["model_type"] == ROWS[name].model_type


@pytest.mark.parametrize(
    ("name", "named"),
    [
        *((name, True) for name in ("mistral", "qwen2", "qwen3", "granite", "smollm3")),
        *((name, False) for name in ("qwen2", "qwen3", "smollm3")),
    ],
)
def test_the_tokenizer_has_the_class_of_the_source(name, named, source, tmp_path):
    """If its config names none, transformers goes by a model_type that it knows."""
    fields = {"tokenizer_class": FAMILIES[ROWS[name].model_type].tokenizer} if named else {}
    model = changed(
        source(name), tmp_path / "m", ["tokenizer_class"], "tokenizer_config.json", **fields
    )
    surgeon.prune(model, tmp_path / "attn", layers="2")
    surgeon.prune(tmp_path / "attn", tmp_path / "whole", layers="2", drop="block")
    want = transformers.AutoTokenizer.from_pretrained(model)
    for folder in ("attn", "whole"):
        found = transformers.AutoTokenizer.from_pretrained(tmp_path / folder)
        assert type(found) is type(want)
        assert found(WORDS).input_ids == want(WORDS).input_ids
    assert "tokenizer_class" not in read(tmp_path / "whole")
