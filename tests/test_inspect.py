"""inspect: figures of a checkpoint, worked out by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from checkpoints import Outcome, Spec

import surgeon

Cli = Callable[..., Outcome]


def test_the_figures(tmp_path: Path) -> None:
    spec = Spec(shards=2, dtypes={"layernorm": "F32"})
    model = checkpoints.make(tmp_path / "model", spec)
    found = surgeon.inspect(model)
    attention, mlp = 2 * 16 * 16 + 2 * 8 * 16, 3 * 24 * 16
    norms = 4 * 2 * 16
    table = 32 * 16
    parameters = 4 * (attention + mlp) + norms + 2 * table + 16
    assert found.costs.parameters == parameters
    assert found.costs.disk_bytes == sum(path.stat().st_size for path in model.glob("*.safetensors"))
    # all matrices and norms, but of the embedding one row
    assert found.costs.weight_bytes_per_token == 2 * parameters + 2 * norms - 2 * table + 2 * 16
    # keys and values, 2 heads of 4, 2 bytes, 4 layers
    assert found.costs.kv_bytes_per_token == 2 * 2 * 4 * 2 * 4
    assert found.dtypes == {"BF16": 2 * (parameters - norms), "F32": 4 * norms}
    assert list(found.dtypes) == ["BF16", "F32"]
    assert (found.model, found.family, found.dialect) == ("model", "llama", "llama")
    assert (found.layers, found.hidden_size, found.intermediate_size) == (4, 16, 24)
    assert (found.heads, found.kv_heads, found.head_dim, found.vocab_size) == (4, 2, 4, 32)
    assert (found.tied, found.quantized, found.surgery) == (False, False, None)
    assert found.attention == found.mlp == (True,) * 4
    assert set(found.shards) == {path.name for path in model.glob("*.safetensors")}


def test_a_tied_table_is_read_in_full(tmp_path: Path) -> None:
    found = surgeon.inspect(checkpoints.make(tmp_path / "model", tied=True))
    assert found.tied
    assert found.costs.weight_bytes_per_token == 2 * found.costs.parameters


def test_a_cut_needs_less_of_the_kv_cache(model: Path, tmp_path: Path) -> None:
    surgeon.prune(model, tmp_path / "attn", last=3)
    assert surgeon.inspect(tmp_path / "attn").costs.kv_bytes_per_token == 32
    surgeon.prune(model, tmp_path / "mlp", last=3, drop="mlp")
    assert surgeon.inspect(tmp_path / "mlp").costs.kv_bytes_per_token == 128
    found = surgeon.inspect(tmp_path / "attn")
    assert found.attention == (True, False, False, False)
    assert found.dialect == "nemotron-nas"
    assert found.surgery is not None
    assert found.surgery["plan"]["attn"] == "1-3"


def test_quantized(tmp_path: Path) -> None:
    found = surgeon.inspect(checkpoints.make(tmp_path / "model", gptq=True, hidden=32, mlp=64))
    assert found.quantized
    assert set(found.dtypes) == {"BF16", "I32", "F16"}


@pytest.mark.parametrize("settings", [[1], "gptq", {"quant_method": ["gptq"]}, {"bits": 4}])
def test_quantized_in_a_way_that_nobody_knows(settings: Any, tmp_path: Path) -> None:
    model = checkpoints.make(tmp_path / "model", Spec(config={"quantization_config": settings}))
    assert {"vLLM", "SGLang", "MLX-LM"} <= refused_for(model, "may not read these quantized weights")


def test_runtimes_name_their_reasons(tmp_path: Path) -> None:
    def refused(out: Path) -> dict[str, str]:
        verdicts = {r.name: r.note for r in surgeon.inspect(out).runtimes if not r.loads}
        # the heads of these small models are of 4
        assert "multiple of 16" in verdicts.pop("onnxruntime")
        assert "multiple of 16" in verdicts.pop("onnxruntime-genai")
        return verdicts

    even = checkpoints.make(tmp_path / "even", mlp=256)
    assert refused(even) == {}
    surgeon.prune(even, tmp_path / "attn", last=1)
    assert refused(tmp_path / "attn") == {}
    surgeon.prune(even, tmp_path / "mlp", last=1, drop="mlp")
    assert set(refused(tmp_path / "mlp")) == {"llama.cpp"}
    surgeon.prune(even, tmp_path / "first", layers="0")
    assert set(refused(tmp_path / "first")) == {"vLLM"}
    odd = checkpoints.make(tmp_path / "odd", mlp=352)
    surgeon.prune(odd, tmp_path / "narrow", last=1)
    assert set(refused(tmp_path / "narrow")) == {
        *("vLLM", "SGLang", "TensorRT-LLM", "MLX-LM", "exllamav3"),
    }
    assert all("352" in note and "--portable" in note for note in refused(tmp_path / "narrow").values())
    surgeon.prune(odd, tmp_path / "portable", last=1, portable=True)
    assert refused(tmp_path / "portable") == {}


def test_readers_of_the_old_rope_fields_alone(tmp_path: Path) -> None:
    """A config of transformers 5 misleads them, unless its rope is their default."""

    def refused(theta: float, **rope: object) -> set[str]:
        parameters = {"rope_theta": theta, "rope_type": "default", **rope}
        model = checkpoints.make(
            tmp_path / f"{theta}-{len(rope)}",
            Spec(style=5, mlp=256, head_dim=16, config={"rope_parameters": parameters}),
        )
        verdicts = surgeon.inspect(model).runtimes
        assert all("no rope fields of transformers 4" in r.note for r in verdicts if not r.loads)
        return {r.name for r in verdicts if not r.loads}

    misled = {"transformers 4", "TensorRT-LLM", "MLX-LM"}
    assert refused(500000.0) == misled
    assert refused(10000.0) == set()
    assert refused(10000.0, rope_type="linear", factor=2.0) == misled


def without(tmp_path: Path, prefix: str, *fields: str, **settings: Any) -> Path:
    """A model whose config.json leaves fields to the defaults of its class."""
    family = {"model_type": prefix.lower(), "architectures": [f"{prefix}ForCausalLM"]}
    spec = Spec(mlp=256, head_dim=16, config=family | settings)
    model = checkpoints.make(tmp_path / prefix, spec)
    config = {key: value for key, value in checkpoints.config(spec).items() if key not in fields}
    (model / "config.json").write_text(json.dumps(config))
    return model


def refused_for(model: Path, words: str) -> set[str]:
    return {r.name for r in surgeon.inspect(model).runtimes if not r.loads and words in r.note}


def test_a_family_with_a_rope_base_of_its_own(tmp_path: Path) -> None:
    """What the class has by default stands in no file, so no other reader finds it."""

    def misled(name: str, **fields: Any) -> set[str]:
        model = without(tmp_path / name, "SmolLM3", "rope_theta", "rope_scaling", **fields)
        found = refused_for(model, "rope base")
        surgeon.prune(model, tmp_path / name / "out", drop="block", last=1)
        assert not refused_for(tmp_path / name / "out", "rope base")
        return found

    assert misled("default") == {"MLX-LM"}
    new = {"rope_type": "default", "rope_theta": 5e6}
    assert misled("new", rope_parameters=new) == {"transformers 4", "MLX-LM"}
    assert misled("old", rope_parameters={**new, "rope_theta": 10000.0}) == {"transformers 4"}


def test_a_scaling_that_only_transformers_5_finds(tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0}
    model = without(tmp_path, "Llama", "rope_scaling", rope_parameters=rope)
    assert refused_for(model, "the scaling of rope") == {"transformers 4", "TensorRT-LLM", "MLX-LM"}


def test_a_head_that_is_not_said_to_be_one(tmp_path: Path) -> None:
    """MLX-LM takes the embedding then, transformers the head."""
    model = without(tmp_path, "Llama", "tie_word_embeddings")
    assert refused_for(model, "embedding for the head") == {"MLX-LM"}
    for drop in ("block", "attn"):
        surgeon.prune(model, tmp_path / drop, drop=drop, last=1)
        assert not refused_for(tmp_path / drop, "embedding for the head")
        config = json.loads((tmp_path / drop / "config.json").read_text(encoding="utf-8"))
        assert config["tie_word_embeddings"] is False


def test_what_llama_cpp_has_no_words_for(tmp_path: Path) -> None:
    config = {"model_type": "granite", "architectures": ["GraniteForCausalLM"]}
    found = surgeon.inspect(checkpoints.make(tmp_path / "granite", Spec(config=config)))
    (verdict,) = (r for r in found.runtimes if r.name == "llama.cpp")
    assert "gets no multipliers" in verdict.note
    assert not verdict.loads


def test_the_page(model: Path, tmp_path: Path, cli: Cli) -> None:
    surgeon.prune(model, tmp_path / "out", layers="1,3")
    outcome = cli("inspect", tmp_path / "out")
    assert (outcome.code, outcome.err) == (0, "")
    for line in (
        "out",
        "family              llama, config dialect nemotron-nas",
        "blocks              4, of which 2 whole",
        "attention           ■·■·",
        "MLP                 ■■■■",
        "KV cache per token  64 B",
        "cut from            model, removing attention of layers 1,3 of 4",
        "blocks without attention: 1,3",
    ):
        assert line in [row.rstrip() for row in outcome.out.splitlines()], line


def test_json(model: Path, cli: Cli) -> None:
    data = json.loads(cli("inspect", model, "--json").out)
    assert data["attention"] == [True] * 4
    assert data["costs"]["kv_bytes_per_token"] == 128
    assert data["surgery"] is None
    assert {"name", "loads", "note", "basis"} == data["runtimes"][0].keys()


def test_the_sample(cli: Cli) -> None:
    data = json.loads(cli("inspect", "sample", "--json").out)
    assert (data["model"], data["layers"], data["heads"], data["kv_heads"]) == ("sample", 12, 3, 1)
    assert data["tied"] is True
    # one KV head of 32, key and value, 2 bytes, 12 layers
    assert data["costs"]["kv_bytes_per_token"] == 1536


def test_a_kind_of_rope_that_was_not_compared(tmp_path: Path) -> None:
    for kind, loads in (("linear", True), ("yarn", False)):
        scaling = {"rope_type": kind, "factor": 2.0}
        spec = Spec(mlp=256, head_dim=16, config={"rope_scaling": scaling})
        verdicts = surgeon.inspect(checkpoints.make(tmp_path / kind, spec)).runtimes
        (mlx,) = (verdict for verdict in verdicts if verdict.name == "MLX-LM")
        assert mlx.loads == loads, mlx.note
        assert loads or "rope of type yarn" in mlx.note


def test_heads_that_are_no_share_of_the_hidden_size(tmp_path: Path) -> None:
    for family, refused in (("Granite", {"MLX-LM"}), ("Llama", set())):
        model = {"model_type": family.lower(), "architectures": [f"{family}ForCausalLM"]}
        spec = Spec(mlp=256, head_dim=16, config=model)
        assert refused_for(checkpoints.make(tmp_path / family, spec), "head_dim") == refused


def test_weights_quantized_by_mlx(tmp_path: Path) -> None:
    settings = {"group_size": 64, "bits": 4}
    for name, method, refused in (("mlx", {}, True), ("gptq", {"quant_method": "gptq"}, False)):
        spec = Spec(config={"quantization_config": settings | method})
        found = refused_for(checkpoints.make(tmp_path / name, spec), "quant_method")
        assert found == ({"transformers 4", "transformers 5"} if refused else set())
