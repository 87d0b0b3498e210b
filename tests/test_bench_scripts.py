"""scripts/bench_onnx.py: what it holds its figures against, and a dry run on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def made(monkeypatch):
    """bench_targets, and rows of (cut, engine, task, milliseconds, bytes, floor)."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_targets

    def targets(*rows, cuda=True):
        built = [bench_targets.Row(c, e, t, ms, ms, size, floor) for c, e, t, ms, size, floor in rows]
        found = bench_targets.targets(built, cuda)
        return {(t.cut, t.task, t.what): (round(t.ratio, 3), t.passed) for t in found}

    return targets


def test_targets(made):
    found = made(
        ("whole", "eager", "decode 100 x1", 12.0, 100, 3.0),
        ("whole", "compile", "decode 100 x1", 5.5, 100, 3.0),
        ("whole", "graph", "decode 100 x1", 6.0, 100, 3.0),
        ("whole", "cuda-graph", "decode 100 x1", 5.0, 100, 3.0),
        ("whole", "int4", "decode 100 x1", 2.0, 30, 1.0),
        ("whole", "cuda-graph", "load", 900.0, 100, 500.0),
        ("whole", "cuda-graph", "decode 100 x16", 6.0, 120, 3.0),
        ("attn", "cuda-graph", "decode 100 x1", 4.5, 90, 2.5),
        ("attn", "cuda-graph", "decode 100 x16", 5.7, 90, 2.5),
    )
    # the captured graph stands for ours: against it, eager, the compiler and 4 bits are held
    assert found == {
        ("whole", "decode 100 x1", "eager over our graph"): (2.4, False),
        ("whole", "decode 100 x1", "torch.compile over our graph"): (1.1, True),
        ("whole", "decode 100 x1", "our graph over the floor"): (1.667, False),
        ("whole", "decode 100 x1", "16 bits over 4 bits"): (2.5, True),
        ("whole", "load", "cuda-graph: loading over reading"): (1.8, False),
        ("attn", "decode 100 x1", "our graph over the floor"): (1.8, False),
        ("attn", "decode 100 x1", "time saved over bytes removed"): (1.0, True),
        ("attn", "decode 100 x16", "time saved over bytes removed"): (0.2, False),
    }


def test_a_cpu_has_other_targets(made):
    rows = (
        ("whole", "eager", "prefill 50", 12.0, 100, 0.0),
        ("whole", "graph", "prefill 50", 10.0, 100, 0.0),
    )
    assert made(*rows, cuda=False) == {("whole", "prefill 50", "eager over our graph"): (1.2, True)}


def numbers(last):
    """What a process of its own can yield, before it is killed."""
    yield os.getpid()
    yield from range(last)
    os._exit(9)


def test_an_engine_has_a_process_of_its_own(monkeypatch, capfd):
    """Which may die: that is told, and what it has measured is there."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from bench_engines import apart

    first, second = (list(apart(numbers, 2)) for _ in range(2))
    assert first[1:] == second[1:] == [0, 1]
    assert len({first[0], second[0], os.getpid()}) == 3
    told = "numbers: its process ended by itself (exit code 9)\n"
    assert capfd.readouterr().err == told * 2


def test_an_engine_that_cannot_be_opened_costs_no_other_its_turn(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_onnx
    from bench_engines import Engine
    from bench_targets import Row

    def open_engine(name, *_):
        if name == "eager":
            raise RuntimeError("CUDA out of memory")
        export = SimpleNamespace(seconds=0.5) if name == "cuda-graph" else None
        return Engine(name, None, 0.0, 0.0, export)

    def rows(folder, cut, engine, *_):
        yield Row(cut, engine.name, "prefill 4", 1.0, 1.0, 1, 0.0)

    monkeypatch.setattr(bench_onnx, "open_engine", open_engine)
    monkeypatch.setattr(bench_onnx, "rows", rows)
    monkeypatch.setattr(bench_onnx, "apart", lambda run, *given: run(*given))
    record = bench_onnx.Record({"dtype": "fp16"}, True, None)
    options = SimpleNamespace(
        cuts="whole",
        engines="compile,eager,cuda-graph",
        compile_cuts="whole",
        int4_cuts="whole",
        device="cpu",
    )
    bench_onnx.run(tmp_path, tmp_path, options, record, 0.0)
    assert [row.engine for row in record.rows] == ["compile", "cuda-graph"]
    assert record.exports == {"whole cuda-graph": 0.5}


def bench_onnx(*flags):
    command = [sys.executable, str(SCRIPTS / "bench_onnx.py"), "--shape", "tiny", "--device", "cpu"]
    command += ["--runs", "1", "--lengths", "4", "--decode", "4x1", *map(str, flags)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, stdin=subprocess.DEVNULL
    )


@pytest.mark.models
def test_a_dry_run(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    done = bench_onnx(
        "--cuts", "whole,attn", "--int4", "--json", tmp_path / "b.json", "--work", tmp_path
    )
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "b.json").read_text())
    assert data["dtype"] == "fp32"
    tasks = {(row["cut"], row["engine"]): [] for row in data["rows"]}
    for row in data["rows"]:
        tasks[row["cut"], row["engine"]].append(row["task"])
    ours = ["load", "prefill 4", "decode 4 x1", "model alone 100 x1"]
    assert tasks == {
        ("whole", "eager"): ours[:3],
        ("whole", "graph"): ours,
        ("whole", "int4"): ours,
        ("attn", "eager"): ours[:3],
        ("attn", "graph"): ours,
    }
    assert len(data["targets"]) == 11
    assert "of 11 targets reached" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["b.json"]


@pytest.mark.models
def test_a_budget_that_is_spent_at_once(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("torch")
    done = bench_onnx("--minutes", "0", "--work", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not everything was measured" in done.stderr
    assert not list(tmp_path.iterdir())
