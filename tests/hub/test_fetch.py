"""Cutting while downloading, against a Hub that may misbehave."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import (
    Cut,
    Hook,
    HubServer,
    IgnoreRange,
    OtherETag,
    Redirect,
    Reset,
    ShortBody,
    Slow,
    Status,
    WrongContentRange,
)

import surgeon

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "surgeon" / "sample"
REFERENCE = ROOT.parent / "shared" / "models" / "reference"
Run = Callable[..., object]


@pytest.fixture
def sample(hub: HubServer) -> str:
    return hub.add_repo("org/sample", folder=SAMPLE)


def digests(folder: Path) -> dict[str, bytes]:
    """Everything in a folder but what names its source."""
    return {
        p.name: p.read_bytes()
        for p in sorted(folder.iterdir())
        if p.name not in ("surgery.json", "README.md")
    }


@pytest.mark.parametrize(
    "flags",
    [
        ("--drop", "attn", "--last", "4", "--keep-last"),
        ("--drop", "block", "--last", "4"),
        ("--drop", "mlp", "--layers", "0,3", "--portable"),
    ],
)
def test_the_same_as_from_a_folder(
    flags: tuple[str, ...], hub: HubServer, sample: str, run_surgeon: Run, tmp_path: Path
) -> None:
    done = run_surgeon("prune", "org/sample", "-o", tmp_path / "out", "--max-shard-size", "1MB", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    assert "were never downloaded" in done.stdout
    done = run_surgeon("prune", "sample", "-o", tmp_path / "local", "--max-shard-size", "1MB", *flags)
    assert digests(tmp_path / "out") == digests(tmp_path / "local")
    record = json.loads((tmp_path / "out" / "surgery.json").read_text())
    assert record["source"]["model"] == "org/sample"
    assert record["source"]["revision"] == sample
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model: org/sample" in card
    assert sample in card
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert not hub.leaks
    # nothing of it went into the cache
    assert not list(tmp_path.glob("hf_home/**/*.safetensors"))


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference model is not here")
def test_only_what_is_kept_is_fetched(hub: HubServer, run_surgeon: Run, tmp_path: Path) -> None:
    """At most 3 % more than the kept bytes, headers and all else included."""
    hub.add_repo("org/reference", folder=REFERENCE)
    done = run_surgeon(
        "prune",
        "org/reference",
        "-o",
        tmp_path / "out",
        "--drop",
        "block",
        "--fraction",
        "33%",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    kept = sum(p.stat().st_size for p in (tmp_path / "out").iterdir())
    report = json.loads(done.stdout)
    assert report["fetched_bytes"] <= 1.01 * report["after"]["disk_bytes"]
    assert hub.totals.sent <= 1.03 * kept
    assert report["fetched_bytes"] + report["not_fetched_bytes"] == report["before"]["disk_bytes"]
    assert surgeon.verify(tmp_path / "out", REFERENCE).ok


def test_looking_reads_headers_alone(
    hub: HubServer, sample: str, run_surgeon: Run, tmp_path: Path
) -> None:
    for args in (
        ("inspect", "org/sample"),
        ("prune", "org/sample", "-o", tmp_path / "out", "--last", "2", "--dry-run"),
    ):
        hub.reset()
        assert run_surgeon(*args).returncode == 0
        assert hub.totals.sent < 600_000  # the tokenizer and 64 KB of the weights
    assert not (tmp_path / "out").exists()


def test_a_branch_that_moves_between_requests(
    hub: HubServer, sample: str, run_surgeon: Run, tmp_path: Path
) -> None:
    """What main was at the start counts to the end."""
    hub.misbehave(
        Hook(lambda request: hub.commit("org/sample", {"config.json": b"{}", "tokenizer.json": b"{}"})),
        times=1,
        kind="info",
    )
    done = run_surgeon("prune", "org/sample", "-o", tmp_path / "out", "--last", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert hub.head("org/sample") != sample
    assert surgeon.verify(tmp_path / "out", "sample").ok


def test_a_revision_is_pinned(hub: HubServer, sample: str, run_surgeon: Run, tmp_path: Path) -> None:
    """The branch moves after the first look; every byte is still that of the old commit."""
    config = json.loads((SAMPLE / "config.json").read_text())
    moved = hub.commit("org/sample", {"config.json": json.dumps(config | {"rope_theta": 5.0})})
    done = run_surgeon("prune", f"org/sample@{sample}", "-o", tmp_path / "old", "--last", "2")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "old" / "surgery.json").read_text())
    assert record["source"]["revision"] == sample != moved
    assert all(sample in r.path for r in hub.requests if "/resolve/" in r.path)


@pytest.mark.parametrize(
    "fault",
    [
        Status(429, retry_after=0),
        Status(503),
        Status(500),
        Reset(),
        Cut(100_000),
        Cut(10, hard=True),
        ShortBody(1000),
        Slow(0.05),
    ],
    ids=repr,
)
def test_what_another_try_mends(
    fault: object, hub: HubServer, sample: str, run_surgeon: Run, tmp_path: Path
) -> None:
    rule = hub.misbehave(fault, times=2, host="storage")
    done = run_surgeon("prune", "org/sample", "-o", tmp_path / "out", "--last", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert rule.hits == 2
    assert surgeon.verify(tmp_path / "out", "sample").ok


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (IgnoreRange(), "the whole file where a part was asked for"),
        (WrongContentRange(), "nothing of it was used"),
        (Redirect(), "redirects in a circle"),
        (Status(404), "the server answers 404"),
        (Status(403), "access is refused"),
    ],
    ids=repr,
)
def test_what_no_try_mends(
    fault: object, words: str, hub: HubServer, sample: str, run_surgeon: Run, tmp_path: Path
) -> None:
    hub.misbehave(fault, times=None, host="storage")
    done = run_surgeon("prune", "org/sample", "-o", tmp_path / "out", "--last", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_changes_while_it_is_read(
    hub: HubServer, sample: str, run_surgeon: Run, tmp_path: Path
) -> None:
    hub.misbehave(OtherETag(), times=None, skip=1, host="storage")
    done = run_surgeon("prune", "org/sample", "-o", tmp_path / "out", "--last", "2")
    assert done.returncode == 2
    assert "changed while it was read" in done.stderr


def test_a_second_run_goes_on(hub: HubServer, run_surgeon: Run, tmp_path: Path) -> None:
    """What was fetched is checked, not trusted: a byte spoiled on the disk is fetched again."""
    if not REFERENCE.is_dir():
        pytest.skip("the reference model is not here")
    hub.add_repo("org/reference", folder=REFERENCE)
    args = ("prune", "org/reference", "-o", tmp_path / "out", "--drop", "attn", "--last", "8")
    # late, so that other shards are there by then
    for fault in (Hook(lambda *args: time.sleep(1.5)), Status(404)):
        hub.misbehave(
            fault, times=None, host="storage", file="model-00004-of-00004.safetensors", skip=1
        )
    done = run_surgeon(*args)
    assert done.returncode == 2
    assert not (tmp_path / "out").exists()
    (staged,) = tmp_path.glob(".out.surgeon-*")
    journal = (staged / "journal").read_text().splitlines()
    assert journal
    with open(staged / "model.safetensors", "r+b") as stream:
        stream.seek(-100, os.SEEK_END)
        stream.write(b"spoiled")
    hub.behave()
    hub.reset()
    done = run_surgeon(*args, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert 0 < report["fetched_bytes"] < 0.6 * report["after"]["disk_bytes"]
    assert surgeon.verify(tmp_path / "out", REFERENCE).ok
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("org/missing", "neither a folder here nor a model of the Hub"),
        ("org/sample@nowhere", "no such revision"),
        ("org/gated", "accept its terms"),
        ("org/private", "neither a folder here nor a model of the Hub"),
        ("org/empty", "config.json: not found"),
        ("org/pickled", "pickled weights are never opened"),
    ],
)
def test_refusals(
    model: str, words: str, hub: HubServer, sample: str, run_surgeon: Run, tmp_path: Path
) -> None:
    hub.add_repo("org/gated", folder=SAMPLE, gated=True)
    hub.add_repo("org/private", folder=SAMPLE, private=True)
    hub.add_repo("org/empty", {"README.md": b"hello"})
    files = {"config.json": (SAMPLE / "config.json").read_bytes(), "pytorch_model.bin": b"x"}
    hub.add_repo("org/pickled", files)
    done = run_surgeon("prune", model, "-o", tmp_path / "out", "--last", "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_private_model_with_a_token(hub: HubServer, run_surgeon: Run, tmp_path: Path) -> None:
    hub.add_repo("org/private", folder=SAMPLE, private=True)
    args = ("prune", "org/private", "-o", tmp_path / "out", "--last", "2")
    assert run_surgeon(*args, token=hub.token).returncode == 0
    assert surgeon.verify(tmp_path / "out", "sample").ok
    assert not hub.leaks  # the second host never saw the token


def test_no_network(hub: HubServer, sample: str, run_surgeon: Run, tmp_path: Path) -> None:
    args = ("prune", "org/sample", "-o", tmp_path / "out", "--last", "2")
    done = run_surgeon(*args, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    done = run_surgeon(*args, HF_HUB_OFFLINE="1")
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE" in done.stderr


def test_files_in_the_cache_are_read_there(
    hub: HubServer, sample: str, run_surgeon: Run, run_python: Run, tmp_path: Path
) -> None:
    assert run_python("import huggingface_hub as h; h.snapshot_download('org/sample')").returncode == 0
    hub.reset()
    assert run_surgeon("prune", "org/sample", "-o", tmp_path / "out", "--last", "2").returncode == 0
    assert hub.totals.sent < 20_000
    done = run_surgeon("prune", "org/sample", "-o", tmp_path / "off", "--last", "2", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "off" / "surgery.json").read_text())["source"]["revision"] == sample
