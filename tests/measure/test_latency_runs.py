"""surgeon bench on small models: both runtimes, end to end, in seconds."""

import gc
import json
import weakref
from functools import partial

import pytest

import surgeon
from surgeon.errors import SurgeonError
from surgeon.jsonfile import encode_json
from surgeon.measure.grid import WHOLE
from surgeon.measure.latency import engines, settings
from surgeon.measure.latency.grids import choose_grid
from surgeon.measure.latency.run import bench
from surgeon.measure.shapes import SHAPES, make

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
np = pytest.importorskip("numpy")

pytestmark = pytest.mark.models

QUICK = {"sequences": 2, "tokens": 2, "lengths": "6", "decode": "5x2", "device": "cpu"}
CUTS = choose_grid("attn,block", "33%", "yes")
NAMES = ["whole", "attn last 2, last layer kept", "block last 2, last layer kept"]


def needs_onnxruntime():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("runtime", ["transformers", "onnxruntime"])
def test_the_whole_way(runtime, cli, tmp_path):
    if runtime == "onnxruntime":
        needs_onnxruntime()
    flags = ["--shape", "tiny", "--runtime", runtime, "--device", "cpu", "--sequences", 2]
    flags += ["--tokens", 2, "--lengths", "6", "--decode", "5x2", "--drop", "attn,block"]
    flags += ["--fractions", "33%", "--keep-last", "yes", "-o", tmp_path / "out", "--threads", 1]
    done = cli("bench", *flags, "--json")
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    assert printed["report"] == json.loads((tmp_path / "out" / "bench.json").read_text())
    assert printed["unfinished"] == 0
    data = printed["report"]
    assert data["subject"]["model"] == "tiny"
    assert data["subject"]["dtype"] == "float32"
    assert data["settings"]["runtime"] == runtime
    assert data["subject"]["versions"][runtime]
    told = [(c["variant"]["name"], c["task"]["kind"]) for c in data["cells"]]
    kinds = ("prefill", "decode")
    in_rounds = runtime == "transformers"
    if in_rounds:
        assert told == [(name, kind) for kind in kinds for name in ["whole", *NAMES]]
        # two prompts are two rounds, one for each turn of the whole model; three rounds of two tokens
        counts = [1, 1, 2, 2, 2 * 2, 2, 3 * 2, 3 * 2]
    else:
        assert told == [(name, kind) for name in [*NAMES, "whole"] for kind in kinds]
        counts = [2] * 8
    assert [cell["timing"]["count"] for cell in data["cells"]] == counts
    for cell in data["cells"]:
        timing = cell["timing"]
        assert 0 < timing["fastest"] <= timing["median"] <= timing["p95"]
        assert (timing["first_pass"] is None) == (cell["task"]["kind"] == "prefill")
        assert cell["peak_bytes"] is None or cell["peak_bytes"] > 10**6
    costs = {name: data["costs"][name] for name in NAMES}
    kv = [costs[name]["kv_bytes_per_token"] for name in NAMES]
    assert kv == [6 * 2 * 2 * 64 * 4, 4 * 2 * 2 * 64 * 4, 4 * 2 * 2 * 64 * 4]
    assert costs[NAMES[2]]["disk_bytes"] < costs[NAMES[1]]["disk_bytes"] < costs["whole"]["disk_bytes"]
    lines = done.err.splitlines()
    assert len([line for line in lines if line.startswith("[")]) == len(data["cells"])
    assert len([line for line in lines if ": round " in line]) == (3 if in_rounds else 0)
    # everything is there: the same again measures nothing, and shows it for people
    again = cli("bench", *flags)
    assert again.code == 0
    assert "last layer kept" in again.out
    assert json.loads((tmp_path / "out" / "bench.json").read_text()) == data


def test_a_cut_by_similarity(cli, tmp_path):
    ranking = tmp_path / "similarity.json"
    ranking.write_bytes(encode_json(surgeon.similarity("sample", tokens=64).to_json()))
    flags = ["--device", "cpu", "--sequences", 1, "--lengths", "4", "--drop", "attn"]
    done = cli("bench", "sample", *flags, "--count", 3, "--by", ranking, "--json")
    assert done.code == 0, done.err
    cells = json.loads(done.out)["report"]["cells"]
    assert [len(cell["variant"]["removed"]) for cell in cells] == [0, 3]


def test_a_cut_in_memory_is_the_cut_on_disk(tmp_path):
    """Every kind of cut, to the bit; and the graph over the whole model's bytes makes its tokens."""
    from surgeon.checkpoint.source import open_checkpoint
    from surgeon.measure.latency.loops import prompts
    from surgeon.measure.latency.with_transformers import cut_network, load_whole
    from surgeon.rule import Rule
    from surgeon.surgery import operate

    checkpoint = open_checkpoint("sample")
    network = load_whole(checkpoint, "float32", "cpu", random=False)
    ids = torch.from_numpy(prompts(9, 2, 2048))
    for drop, layers in (("attn", "0,4-6"), ("mlp", "3,11"), ("block", "2-5")):
        operation = operate(checkpoint, Rule(drop, layers=layers).of(checkpoint), False, 1 << 62)
        cut = cut_network(network, operation)
        surgeon.prune("sample", tmp_path / drop, drop=drop, layers=layers)
        pruned = load_whole(open_checkpoint(tmp_path / drop), "float32", "cpu", random=False)
        assert type(cut) is type(pruned)
        assert sum(1 for _ in cut.modules()) == sum(1 for _ in pruned.modules())
        with torch.inference_mode():
            assert torch.equal(cut(ids).logits, pruned(ids).logits)
        shared = {p.data_ptr() for p in network.parameters()}
        assert all(p.data_ptr() in shared for p in cut.parameters())


def test_both_runtimes_make_the_same_tokens_again_and_again(tmp_path):
    needs_onnxruntime()
    from surgeon.checkpoint.source import open_checkpoint
    from surgeon.measure.latency.loops import prompts
    from surgeon.measure.latency.with_onnxruntime import OnnxruntimeSteps
    from surgeon.measure.latency.with_transformers import TransformersSteps, cut_network, load_whole
    from surgeon.onnx.export import export_onnx
    from surgeon.rule import Rule
    from surgeon.runtime.session import load
    from surgeon.surgery import operate

    checkpoint = open_checkpoint("sample")
    operation = operate(checkpoint, Rule("attn", last=4).of(checkpoint), False, 1 << 62)
    network = cut_network(load_whole(checkpoint, "float32", "cpu", random=False), operation)
    export_onnx(
        "sample", "fp32", last_logits_only=True, output=tmp_path / "graph", without=operation.plan
    )
    loaded = load(tmp_path / "graph", "cpu", threads=1)
    assert len(loaded.caches) == 16
    ids = prompts(7, 2, 2048)
    seen = []
    for steps in (TransformersSteps(network), OnnxruntimeSteps(loaded)):
        take, rewind = steps.decode(ids, 4)
        passes = []
        for _ in range(3):
            passes.append([np.ravel(take()).tolist() for _ in range(4)])
            rewind()
        assert passes[0] == passes[1] == passes[2]
        first = steps.prefill(ids[:1])
        seen.append((passes[0], [first(ids[:1]), first(ids[1:]), first(ids[:1])]))
    assert seen[0] == seen[1]
    assert seen[0][1][0] == seen[0][1][2]


def test_a_budget_and_going_on_by_turns(tmp_path):
    needs_onnxruntime()
    told = []
    run = partial(bench, shape="tiny", runtime="onnxruntime", output=tmp_path / "out", **QUICK)
    first = run(cuts=CUTS, minutes=0.0, advance=told.append)
    # the whole model is measured whatever the budget; without a cut it has no second turn
    assert [cell.variant for cell in first.report.cells] == [WHOLE, WHOLE]
    assert first.unfinished == 4
    assert [progress.done for progress in told] == [1, 2]
    second = run(cuts=CUTS)
    assert second.unfinished == 0
    assert second.report.cells[:2] == first.report.cells
    assert [c.variant.name for c in second.report.cells[2::2]] == [*NAMES, "whole"]


def test_a_budget_and_going_on_in_rounds(tmp_path):
    run = partial(bench, shape="tiny", output=tmp_path / "out", **QUICK)
    first = run(cuts=CUTS, minutes=0.0)
    # one round of the first task, with one of two prompts for every variant
    assert [cell.variant.name for cell in first.report.cells] == NAMES
    assert {(cell.task.kind, cell.timing.count) for cell in first.report.cells} == {("prefill", 1)}
    assert first.unfinished == 3
    second = run(cuts=CUTS)
    assert second.unfinished == 0
    assert second.report.cells[:3] == first.report.cells
    assert [c.variant.name for c in second.report.cells[3:]] == ["whole", *NAMES]
    assert {cell.task.kind for cell in second.report.cells[3:]} == {"decode"}
    third = run(cuts=[surgeon.Plan.last(6, 1, "mlp")])
    assert third.report.cells[: len(second.report.cells)] == second.report.cells
    name = "removing MLP of layer 5 of 6"
    assert [c.variant.name for c in third.report.cells[-6:]] == ["whole", "whole", name] * 2
    assert set(third.report.costs) == {*NAMES, name}
    with pytest.raises(SurgeonError, match="tokens 2, not 3; choose another folder"):
        run(**{**QUICK, "tokens": 3})


def test_what_is_beyond_the_context_is_left_out():
    outcome = bench("sample", [], **{**QUICK, "decode": "1023x1"})
    assert [task.name for task in outcome.beyond_context] == ["decode 1023 x1"]
    assert {cell.task.name for cell in outcome.report.cells} == {"prefill 6"}
    with pytest.raises(SurgeonError, match="1024 positions"):
        bench("sample", [], **{**QUICK, "lengths": "1024", "decode": "none"})


def test_out_of_memory(monkeypatch, tmp_path):
    def broken(steps, task, *rest):
        decoded.append(task.kind == "decode")
        if sum(decoded) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB")
        return real(steps, task, *rest)

    real, decoded = engines.take_times, []
    monkeypatch.setattr(engines, "take_times", broken)
    with pytest.raises(SurgeonError) as caught:
        bench(cuts=CUTS, shape="tiny", output=tmp_path / "out", **QUICK)
    assert str(caught.value) == (
        f"{NAMES[1]}: decode 5 x2: out of memory; ask for less with --lengths or --decode, or for a "
        "dtype of 16 bits"
    )
    # the task that was finished is there, and gone on with; that of the error starts anew
    cells = json.loads((tmp_path / "out" / "bench.json").read_text())["cells"]
    assert {cell["task"]["kind"] for cell in cells} == {"prefill"}
    again = bench(cuts=CUTS, shape="tiny", output=tmp_path / "out", **QUICK).report
    assert [cell.variant.name for cell in again.cells[len(cells) :]] == ["whole", *NAMES]


def test_a_cache_is_gone_when_its_share_is(monkeypatch):
    """Caches of two variants side by side can be more than a device holds."""
    from transformers import DynamicCache

    real, caches, alive = DynamicCache.__init__, weakref.WeakSet(), []

    def counted(self, *args, **more):
        real(self, *args, **more)
        caches.add(self)
        alive.append(len(caches))

    monkeypatch.setattr(DynamicCache, "__init__", counted)
    gc.disable()  # nothing but the end of a share may free it
    try:
        bench(cuts=CUTS, shape="tiny", **{**QUICK, "lengths": "none"})
    finally:
        gc.enable()
    assert len(alive) == 3 * 3 * 2  # rounds, variants, passes
    assert set(alive) == {1}


def test_an_old_report_is_not_gone_on_with(tmp_path):
    """Its cuts had a machine each; beside those of rounds they would mislead."""
    bench(cuts=[], shape="tiny", output=tmp_path / "out", **QUICK)
    path = tmp_path / "out" / "bench.json"
    data = json.loads(path.read_text())
    for key in ("rounds", "decode_rounds", "later_warmup"):
        del data["settings"][key]
    path.write_text(json.dumps(data))
    with pytest.raises(SurgeonError, match="choose another folder"):
        bench(cuts=[], shape="tiny", output=tmp_path / "out", **QUICK)


def test_a_process_that_dies(tmp_path):
    needs_onnxruntime()
    from surgeon.measure.latency.with_onnxruntime import Process

    with Process() as process:
        process._child.kill()
        with pytest.raises(SurgeonError, match="ended by itself"):
            process.ask({}, lambda estimate: None)
    question = {"folder": str(tmp_path), "device": "cpu", "cuda_graph": False, "threads": 1}
    with Process() as process, pytest.raises(SurgeonError, match=r"config\.json: not found"):
        process.ask(question, lambda estimate: None)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "give MODEL or --shape NAME; NAME is of llama-2-7b"),
        (["sample", "--shape", "tiny"], "MODEL or --shape NAME, not both"),
        (["--shape", "huge"], "'huge' is not known; use llama-2-7b"),
        (["sample", "--lengths", "many"], "--lengths 'many'"),
        (["sample", "--drop", "head"], "--drop 'head'"),
        (["sample", "--dtype", "int8"], "--dtype 'int8'"),
        (["sample", "--sequences", "0"], "--sequences"),
        (["sample", "--last", "99"], "--last 99"),
        (["/nowhere"], "/nowhere"),
    ],
)
def test_bad_input(flags, words, cli):
    done = cli("bench", *flags, "--device", "cpu")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert words in done.err
    assert done.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_onnxruntime_on_cuda_beside_a_torch_without():
    assert settings.device_name("cuda") == "CUDA"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("runtime", ["transformers", "onnxruntime"])
def test_no_cuda(runtime, cli):
    if runtime == "onnxruntime":
        needs_onnxruntime()
    done = cli("bench", "sample", "--device", "cuda", "--runtime", runtime)
    assert done.code == 2
    assert "CUDA" in done.err
    assert done.err.count("\n") == 1


def test_shapes(tmp_path):
    from surgeon.checkpoint.source import open_checkpoint

    # parameters as the models' cards have them
    for name, billions in (("llama-2-7b", 6.738), ("llama-2-13b", 13.016), ("llama-3-70b", 70.554)):
        size = make(name, tmp_path / name, weights=False)
        assert size == pytest.approx(2e9 * billions, rel=1e-4)
        assert open_checkpoint(tmp_path / name).structure.num_layers == SHAPES[name].num_hidden_layers
    size = make("tiny", tmp_path / "tiny", "F32")
    checkpoint = open_checkpoint(tmp_path / "tiny")
    assert size == sum(tensor.length for tensor in checkpoint.tensors.values())
    values = (tmp_path / "tiny" / "model.safetensors").read_bytes()[-4 * 1000 :]
    assert 0.015 < float(np.frombuffer(values, "<f4").std()) < 0.025
