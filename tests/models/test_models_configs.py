"""What else is read from a pruned folder: configs in the style of either transformers, tokenizers."""

import json
import shutil

import llamas
import pytest
from llamas import CUTS, LAYERS, PLAIN, read_json

import surgeon

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.models

WORDS = "Once upon a time, there"


def write_json(file, data):
    file.write_text(json.dumps(data), encoding="utf-8")


def restyled(source, folder, style):
    """A copy of a source whose config.json has its rope fields as another transformers writes them."""
    shutil.copytree(source, folder)
    config = read_json(folder / "config.json")
    rope = config.pop("rope_parameters", None) or {}
    theta = rope.pop("rope_theta", None) or config.pop("rope_theta")
    scaling = config.pop("rope_scaling", None) or rope
    kind = scaling.pop("rope_type", "default")
    if style == "transformers 5":
        config["rope_parameters"] = {"rope_theta": theta, "rope_type": kind, **scaling}
    else:
        config["rope_theta"] = theta
        name = "type" if style == "before 4.43" else "rope_type"
        config["rope_scaling"] = None if kind == "default" else {name: kind, **scaling}
    write_json(folder / "config.json", config)
    return folder


@pytest.mark.parametrize("style", ["transformers 5", "transformers 4", "before 4.43"])
@pytest.mark.parametrize("name", ["gqa", "linear", "llama3"])
def test_rope_fields_of_either_style(name, style, source, pruned, load, tmp_path, ids):
    """Also those of a transformers that is not this one: the dialect always has the flat fields."""
    folder = restyled(source(name), tmp_path / "source", style)
    surgeon.prune(folder, tmp_path / "out", **CUTS["scattered"](LAYERS[name]).arguments)
    model = load(tmp_path / "out")
    want = pruned(name, "scattered")
    assert torch.equal(model.model.rotary_emb.inv_freq, want.model.rotary_emb.inv_freq)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, want(ids).logits)
    config = read_json(tmp_path / "out" / "config.json")
    assert "rope_parameters" not in config
    assert config["rope_theta"] == {"gqa": 50000.0, "linear": 1000.0, "llama3": 500000.0}[name]


@pytest.mark.parametrize(("name", "key"), [("tied-mha", "attn"), ("gqa", "attn"), ("biased", "mlp")])
def test_the_config_object(name, key, pruned):
    config = pruned(name, key).config
    removed = CUTS[key](LAYERS[name]).removed
    for layer, block in enumerate(config.block_configs):
        assert block.attention.no_op == ((layer, "attn") in removed)
        assert block["ffn"]["no_op"] == ((layer, "mlp") in removed)
    clone = type(config).from_dict(config.to_dict())
    assert clone.to_dict() == config.to_dict()
    assert clone.block_configs is not config.block_configs


@pytest.mark.parametrize("name", ["sample", "llama3", "linear"])
@pytest.mark.parametrize("key", ["attn-keep-last", "joined"])
def test_the_tokenizer_comes_along(name, key, source, cut):
    want = transformers.AutoTokenizer.from_pretrained(source(name))(WORDS).input_ids
    assert len(want) > 3
    assert transformers.AutoTokenizer.from_pretrained(cut(name, key))(WORDS).input_ids == want


@pytest.mark.parametrize("key", ["attn-keep-last", "joined"])
def test_a_tokenizer_whose_config_names_no_class(key, source, tmp_path):
    """The class then depends on model_type, and transformers 4 knows none for the dialect's."""
    shutil.copytree(source("gqa"), tmp_path / "source")
    settings = read_json(tmp_path / "source" / "tokenizer_config.json")
    want = transformers.AutoTokenizer.from_pretrained(tmp_path / "source")(WORDS).input_ids
    del settings["tokenizer_class"]
    write_json(tmp_path / "source" / "tokenizer_config.json", settings)
    surgeon.prune(tmp_path / "source", tmp_path / "out", **CUTS[key](LAYERS["gqa"]).arguments)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(WORDS).input_ids == want


@pytest.mark.parametrize("key", ["attn-keep-last", "block"])
def test_the_pipeline(key, cut, pruned):
    """The shortest way to text; it finds model, tokenizer and generation_config by itself."""
    folder = str(cut("sample", key))
    pipe = transformers.pipeline("text-generation", folder, dtype=torch.float32, device="cpu")
    assert type(pipe.model) is type(pruned("sample", key))
    text = pipe(WORDS, max_new_tokens=8, do_sample=False)[0]["generated_text"]
    assert text.startswith(WORDS)
    assert len(text) > len(WORDS) + 8


@pytest.mark.parametrize("key", PLAIN)
def test_whole_blocks_need_no_code_of_ours(key, cut, source):
    """The config is the source's but for the number of layers, and rope fields in both styles."""
    folder = cut("llama3", key)
    assert not list(folder.glob("*.py"))
    config, before = read_json(folder / "config.json"), read_json(source("llama3") / "config.json")
    assert config.pop("num_hidden_layers") < before.pop("num_hidden_layers")
    flat = {"rope_theta": config.pop("rope_theta"), "rope_scaling": config.pop("rope_scaling")}
    assert flat["rope_theta"] == 500000.0
    assert flat["rope_scaling"] == {k: v for k, v in llamas.LLAMA3_ROPE.items() if k != "rope_theta"}
    assert config == {key: value for key, value in before.items() if key not in flat}
