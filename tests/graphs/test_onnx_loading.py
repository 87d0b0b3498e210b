"""A graph and the weights beside it must belong together; every other case is one clear refusal."""

import shutil

import checkpoints
import llama_numbers
import pytest
from llama_numbers import SMALL, make

from surgeon.errors import SurgeonError
from surgeon.runtime.session import load

AGAIN = "run: surgeon export onnx"


def export(folder, dtype="fp32", **options):
    from surgeon.onnx.export import export_onnx

    return export_onnx(folder, dtype, **options)


def refused(folder, *words, device="cpu"):
    """A SurgeonError of one line that has all the words."""
    with pytest.raises(SurgeonError) as caught:
        load(folder, device)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_a_graph_that_belongs_loads(plain):
    export(plain)
    loaded = load(plain, "cpu")
    assert (loaded.device, loaded.element, loaded.context_length) == ("cpu", 1, 128)
    assert not loaded.cuda_graph
    assert load(plain).device == "cpu"
    assert load(plain, "cpu", cuda_graph=True).cuda_graph is False


def test_no_graph(plain):
    refused(plain, str(plain / "model.onnx"), "not found", f"{AGAIN} {plain}")


def test_no_checkpoint(plain):
    export(plain)
    (plain / "model.safetensors").unlink()
    refused(plain, "model.safetensors", "not found")


def test_other_weights_of_the_same_header(plain):
    """Their bytes would be read as weights without a word."""
    export(plain)
    llama_numbers.put(plain, llama_numbers.weights(SMALL, seed=1), SMALL)
    refused(plain, "were replaced since", AGAIN)
    llama_numbers.put(plain, llama_numbers.weights(SMALL, seed=0), SMALL)
    assert load(plain, "cpu")


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_other_weights_in_one_of_several_shards(dtype, tmp_path):
    folder, other = (
        make(tmp_path / name, shards=3, seed=seed, dtype="F32") for seed, name in enumerate("ab")
    )
    export(folder, dtype)
    name = "model-00002-of-00003.safetensors"
    shutil.copyfile(other / name, folder / name)
    refused(folder, "were replaced since", AGAIN)


def test_another_header(plain):
    export(plain)
    swapped = dict(reversed(checkpoints.read_weights(plain).items()))
    checkpoints.write_weights(plain / "model.safetensors", swapped)
    refused(plain, "was made for other weight files", AGAIN)


def test_another_layout_into_shards(plain, tmp_path):
    export(plain)
    (plain / "model.safetensors").unlink()
    for path in make(tmp_path / "shards", shards=2).glob("*.safetensors*"):
        shutil.copyfile(path, plain / path.name)
    refused(plain, "was made for other weight files", AGAIN)


@pytest.mark.parametrize("change", ["shorter", "longer", "empty", "gone"])
def test_converted_weights_of_another_length(change, tmp_path):
    folder = make(tmp_path / "m", dtype="BF16")
    size = export(folder).data_bytes
    path = folder / "model.onnx.data"
    if change == "gone":
        path.unlink()
    else:
        with open(path, "r+b") as stream:
            stream.truncate({"shorter": size - 1, "longer": size + 1, "empty": 0}[change])
    refused(folder, str(path), f"the graph needs {size}", AGAIN)


def test_a_graph_that_surgeon_did_not_make(plain):
    from onnx import TensorProto, helper, save

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
    save(model, str(plain / "model.onnx"))
    refused(plain, "surgeon did not make this graph", AGAIN)


@pytest.mark.parametrize("junk", [b"", b"not a graph at all", b"\x08\x0a\xff\xff\xff", b"\xff" * 300])
def test_a_graph_that_is_none(junk, plain):
    """And not protobuf's own exception."""
    (plain / "model.onnx").write_bytes(junk)
    refused(plain, str(plain / "model.onnx"), AGAIN)


def test_a_truncated_graph(plain):
    export(plain)
    path = plain / "model.onnx"
    path.write_bytes(path.read_bytes()[:-200])
    refused(plain, str(path))


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_graph_of_16_bits_is_not_for_a_cpu(device, dtype, plain):
    import onnxruntime

    if device == "auto" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("auto finds CUDA here")
    export(plain, dtype)
    refused(plain, "16 bits", "--dtype fp32", device=device)


def test_cuda_without_cuda(plain):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is CUDA here")
    export(plain, "fp16")
    refused(plain, "--device cuda", "no CUDA provider", "surgeon[gpu]", device="cuda")


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_devices_of_an_onnxruntime_that_has_cuda(dtype):
    """Worked out without a session, so that it is tested anywhere."""
    from surgeon.onnx.weights import ELEMENTS
    from surgeon.runtime.session import _device

    element = ELEMENTS[{"fp16": "F16", "bf16": "BF16", "fp32": "F32"}[dtype]]
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    if dtype == "fp32":
        assert _device("auto", element, providers) == "cpu"
        with pytest.raises(SurgeonError, match="the graph is float32"):
            _device("cuda", element, providers)
    else:
        assert _device("auto", element, providers) == _device("cuda", element, providers) == "cuda"
        with pytest.raises(SurgeonError, match="16 bits, for CUDA"):
            _device("cpu", element, providers)


def test_an_unknown_device(plain):
    export(plain)
    refused(plain, "--device 'tpu' is not known", "auto, cuda, cpu", device="tpu")


def test_a_folder_that_was_moved_still_loads(plain, tmp_path):
    """Locations are names beside the graph, not paths."""
    export(plain)
    shutil.move(plain, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere", "cpu")
    assert not any("/" in file for file, _, _ in llama_numbers.ranges(tmp_path / "elsewhere").values())


def test_a_pruned_folder_does_not_inherit_a_graph(plain, tmp_path):
    """The graph of the source is of other weights; the cut gets none, or one that is refused."""
    import surgeon

    export(plain)
    surgeon.prune(plain, tmp_path / "cut", drop="attn", last=1)
    assert not list((tmp_path / "cut").glob("*.onnx*"))
    refused(tmp_path / "cut", "not found", AGAIN)
