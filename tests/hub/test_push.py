"""Publishing a pruned folder, and using it from the Hub as anyone would."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import checkpoints
import pytest
from hub_server import HubServer, Status

import surgeon

SAMPLE = Path(__file__).resolve().parents[2] / "surgeon" / "sample"
Run = Callable[..., object]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    surgeon.prune("sample", tmp_path / "out", last=3, keep_last=True, max_shard_size="1MB")
    return tmp_path / "out"


def test_a_round_trip(
    hub: HubServer, out: Path, run_surgeon: Run, run_python: Run, tmp_path: Path
) -> None:
    """Pushed, cut again from the Hub, loaded by transformers: always the same bytes."""
    pytest.importorskip("transformers")
    done = run_surgeon("push", out, "me/pruned", token=hub.token)
    assert (done.returncode, done.stderr) == (0, "")
    assert hub.head("me/pruned") in done.stdout
    there = hub.files("me/pruned")
    assert {p.name for p in out.iterdir()} <= set(there)
    for path in out.iterdir():
        assert there[path.name] == path.read_bytes(), path.name
    assert hub.file("me/pruned", "model-00001-of-00003.safetensors").lfs
    assert surgeon.verify(out, "sample").ok
    again = run_surgeon("prune", "me/pruned", "-o", tmp_path / "again", "--last", "1", "--drop", "mlp")
    assert (again.returncode, again.stderr) == (0, "")
    record = json.loads((tmp_path / "again" / "surgery.json").read_text())
    assert record["source"]["model"] == "me/pruned"
    assert record["source"]["surgery"]["source"]["model"] == "sample"
    code = """
    import sys
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained("me/pruned", trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained("me/pruned", trust_remote_code=True)
    ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
    out = model.float().generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=2)
    assert "surgeon" not in sys.modules
    print(tokenizer.decode(out[0], skip_special_tokens=True), end="")
    """
    loaded = run_python(code)
    assert loaded.returncode == 0, loaded.stderr
    text = run_surgeon("generate", "me/pruned", "Once upon a time", "--max-new-tokens", "12")
    assert text.returncode == 0, text.stderr
    assert text.stdout == loaded.stdout + "\n"


def test_a_graph_from_the_cache(hub: HubServer, out: Path, run_surgeon: Run) -> None:
    """Pushed with its graph, a model runs in onnxruntime out of the Hub cache."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    surgeon.export_onnx(out, "fp32")
    assert run_surgeon("push", out, "me/graph", token=hub.token).returncode == 0
    assert {"model.onnx", "model.onnx.data", "genai_config.json"} <= set(hub.files("me/graph"))
    args = ("Once upon a time", "--max-new-tokens", "12", "--runtime", "onnxruntime")
    there, here = run_surgeon("generate", "me/graph", *args), run_surgeon("generate", out, *args)
    assert there.returncode == 0, there.stderr
    assert there.stdout == here.stdout


def test_what_never_leaves(hub: HubServer, out: Path, run_surgeon: Run) -> None:
    for name in (".env", ".out.surgeon-x", "id_rsa", "notes.py", "training.log", "x.bin"):
        (out / name).write_text("secret")
    (out / ".git").mkdir()
    (out / ".git" / "config").write_text("secret")
    (out / "README.md").write_text("# my own card\n")
    done = run_surgeon("push", out, "me/pruned", token=hub.token)
    assert done.returncode == 0, done.stderr
    assert "Left out: .env, .out.surgeon-x, id_rsa, notes.py, training.log, x.bin" in done.stdout
    there = hub.files("me/pruned")
    assert b"secret" not in b"".join(there.values())
    assert there["README.md"] == b"# my own card\n"  # an edited card is kept


def test_branches_pull_requests_and_private(hub: HubServer, out: Path, run_surgeon: Run) -> None:
    assert run_surgeon("push", out, "me/a", "--private", token=hub.token).returncode == 0
    assert hub.repos["me/a"].private
    before = hub.head("me/a")
    assert run_surgeon("push", out, "me/a", "--revision", "other", token=hub.token).returncode == 0
    (out / "README.md").write_text("# new\n")
    done = run_surgeon("push", out, "me/a", "--create-pr", token=hub.token)
    assert done.returncode == 0, done.stderr
    assert "discussions" in done.stdout
    assert hub.head("me/a") == before


def test_nothing_is_sent(hub: HubServer, out: Path, run_surgeon: Run) -> None:
    done = run_surgeon("push", out, "me/dry", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["url"] is None
    assert set(report["files"]) == {p.name for p in out.iterdir()}
    assert not hub.requests


@pytest.mark.parametrize("drop", ["attn", "block"])
def test_all_that_prune_writes_goes(drop: str, tmp_path: Path) -> None:
    """Also the classes of a dialect other than Llama's, and files of other families."""
    config = {"model_type": "granite", "architectures": ["GraniteForCausalLM"]}
    model = checkpoints.make(tmp_path / "model", checkpoints.Spec(config=config))
    for name in ("tokenizer.model.v3", "vocab.bpe", "LICENSE", "additional_chat_templates/rag.jinja"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("of the model")
    out = tmp_path / "out"
    files = surgeon.prune(model, out, last=1, drop=drop).files
    assert ("modeling_blocks.py" in files) == (drop == "attn")
    report = surgeon.push(out, "me/granite", dry_run=True)
    assert (set(report.files), report.left_out) == (set(files), ())


def test_refusals(hub: HubServer, out: Path, run_surgeon: Run, tmp_path: Path) -> None:
    def refused(*args: object, **env: str) -> str:
        done = run_surgeon("push", *args, **env)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    assert "surgeon did not make it" in refused(SAMPLE, "me/x", token=hub.token)
    assert "hf auth login" in refused(out, "me/x")
    assert "cannot be reached" in refused(
        out, "me/x", token=hub.token, HF_ENDPOINT="http://127.0.0.1:9"
    )
    hub.add_user("other", "hf_other")
    assert "does not allow it" in refused(out, "me/x", token="hf_other")
    hub.misbehave(Status(400), times=None, method="POST", path=".*/commit/.*")
    assert "the Hub answers 400" in refused(out, "me/x", token=hub.token)
    shutil.rmtree(out)
    assert "no such folder" in refused(out, "me/x", token=hub.token)


@pytest.mark.parametrize(
    ("licence", "repo", "count"),
    [("llama3.1", "me/x", 3), ("llama3.1", "me/Llama-x", 2), ("llama2", "me/x", 1), ("mit", "me/x", 0)],
)
def test_duties_of_the_llama_licences(licence: str, repo: str, count: int, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(SAMPLE, model)
    (model / "README.md").write_text(f"---\nlicense: {licence}\n---\n# base\n")
    surgeon.prune(model, tmp_path / "out", last=2)
    assert f"license: {licence}\n" in (tmp_path / "out" / "README.md").read_text()
    assert len(surgeon.push(tmp_path / "out", repo, dry_run=True).advice) == count


def test_what_was_measured_goes_along(hub: HubServer, out: Path, run_surgeon: Run) -> None:
    """A measured.json beside the model: in the pushed card, as it is at the time of the push.

    The file itself has paths of the machine in it, and stays.
    """
    report = {
        "format": 1,
        "subject": {
            "model": "sample",
            "revision": None,
            "fingerprint": "",
            "num_layers": 12,
            "parameters": 1,
            "dtype": "float32",
            "device": "cpu",
            "versions": {"torch": "2.13.0"},
        },
        "settings": {"tasks": ["arc_challenge:25"], "limit": 10},
        "measures": [
            {"name": "arc", "label": "ARC", "unit": "%", "higher_is_better": True, "detail": "acc_norm"}
        ],
        "cells": [
            {
                "variant": {
                    "name": "cut",
                    "drop": None,
                    "fraction": None,
                    "count": 3,
                    "keep_last": True,
                    "removed": [[layer, "attn"] for layer in (8, 9, 10)],
                },
                "scores": {"arc": 25.5},
                "stderr": {"arc": 1.25},
                "seconds": 1.0,
            }
        ],
    }
    (out / "measured.json").write_text(json.dumps(report))
    dry = run_surgeon("push", out, "me/pruned", "--dry-run")
    assert (dry.returncode, dry.stderr) == (0, "")
    assert "25.50" not in (out / "README.md").read_text()
    done = run_surgeon("push", out, "me/pruned", token=hub.token)
    assert (done.returncode, done.stderr) == (0, "")
    there = hub.files("me/pruned")
    assert "| ARC, acc_norm, % | 25.50 ± 1.25 |" in there["README.md"].decode()
    assert "measured.json" not in there
    report["cells"][0]["variant"]["removed"].pop()
    (out / "measured.json").write_text(json.dumps(report))
    done = run_surgeon("push", out, "me/pruned", token=hub.token)
    assert done.returncode == 2
    assert "measured.json: has no result of this model, but of sample" in done.stderr
