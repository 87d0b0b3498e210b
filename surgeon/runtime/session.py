"""An onnxruntime session over an exported folder, if graph and weights belong together."""

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from surgeon.checkpoint.source import Checkpoint, open_local
from surgeon.errors import SurgeonError
from surgeon.onnx.export import GRAPH
from surgeon.onnx.ops import WINDOWS_IR_VERSION
from surgeon.onnx.weights import DATA
from surgeon.runtime import cuda
from surgeon.runtime.stream import Stream

DEVICES = ("auto", "cuda", "cpu")


@dataclass(frozen=True)
class Loaded:
    """A session with its execution providers, and what there is to know about its graph.

    ``stream`` is where all sessions over ``providers`` run, one after the other; None where each takes
    one of its own, and on a CPU.
    ``element`` is the onnx type of logits and caches, ``context_length`` the positions of its rope
    tables, ``cuda_graph`` whether decoding is captured, under the next of ``graph_ids``.
    """

    session: Any
    providers: list[Any]
    stream: Stream | None
    checkpoint: Checkpoint
    folder: Path
    device: str
    element: int
    context_length: int
    quantized: bool
    last_logits_only: bool
    cuda_graph: bool
    graph_ids: Iterator[int] = field(default_factory=lambda: count(1))

    @cached_property
    def caches(self) -> tuple[tuple[str, str], ...]:
        """Names of past inputs and of the present outputs that take their place."""
        return tuple(
            (i.name, i.name.replace("past_key_values", "present"))
            for i in self.session.get_inputs()
            if i.name.startswith("past_key_values")
        )


def load(
    model: str | os.PathLike[str],
    device: str = "auto",
    cuda_graph: bool = False,
    threads: int = 0,
    exact: bool = False,
) -> Loaded:
    """Opens the graph beside the weights of ``model``.

    ``device`` auto takes CUDA where onnxruntime has it and the graph is of 16 bits; ``exact`` forbids
    a CPU to round activations between weights of 4 bits. Raises
    SurgeonError when there is no graph, when it was made for other weights, or when the device
    cannot run it.
    """
    try:
        import onnx
        import onnxruntime as ort
    except ImportError as error:
        raise SurgeonError(
            f"onnxruntime needs {error.name}, which is not installed; run: "
            "pip install 'surgeon[onnxruntime]' (or 'surgeon[gpu]')"
        ) from None
    checkpoint, folder = open_local(model)
    path = folder / GRAPH
    if not path.is_file():
        raise SurgeonError(f"{path}: not found; run: surgeon export onnx {model}")
    try:
        graph = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's
        again = f"run: surgeon export onnx {model}"
        raise SurgeonError(f"{path}: is not a graph ({error}); {again}") from None
    metadata = {entry.key: entry.value for entry in graph.metadata_props}
    _check_belongs(checkpoint, metadata, path)
    version = tuple(int(part) for part in ort.__version__.split(".")[:2])
    if graph.ir_version >= WINDOWS_IR_VERSION and version < (1, 24):
        raise SurgeonError(
            f"{path}: has sliding windows, which onnxruntime {ort.__version__} computes otherwise; "
            "run: pip install -U 'onnxruntime>=1.24' (or onnxruntime-gpu)"
        )
    logits = graph.graph.output[0].type.tensor_type
    element = logits.elem_type
    chosen = _device(device, element, ort.get_available_providers())
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    quantized = [node for node in graph.graph.node if node.op_type == "MatMulNBits"]
    content: str | bytes = str(path)
    if quantized and exact:
        for node in quantized:
            for attribute in node.attribute:
                attribute.i = 0 if attribute.name == "accuracy_level" else attribute.i
        content = graph.SerializeToString()
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(folder.absolute()))
    try:
        providers: list[Any] = ["CPUExecutionProvider"]
        stream = None
        with cuda.prepared(ort) if chosen == "cuda" else nullcontext():
            if chosen == "cuda":
                providers[0], stream = cuda.provider(ort, cuda_graph)
            session = ort.InferenceSession(content, options, providers=providers)
    except Exception as error:  # onnxruntime's own exceptions share no base class
        raise SurgeonError(f"{path}: onnxruntime cannot load it ({error})") from None
    if chosen == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise cuda.why_not(ort)
    return Loaded(
        session=session,
        providers=providers,
        stream=stream,
        checkpoint=checkpoint,
        folder=folder,
        device=chosen,
        element=element,
        context_length=int(metadata["surgeon.context_length"]),
        quantized=bool(quantized),
        last_logits_only=logits.shape.dim[1].dim_value == 1,
        cuda_graph=cuda_graph and chosen == "cuda",
    )


def _check_belongs(checkpoint: Checkpoint, metadata: dict[str, str], path: Path) -> None:
    """Byte ranges of other files would be read as weights without a word, so this comes first."""
    again = f"run: surgeon export onnx {path.parent}"
    if "surgeon.fingerprint" not in metadata:
        raise SurgeonError(f"{path}: surgeon did not make this graph; {again}")
    if metadata["surgeon.fingerprint"] != checkpoint.fingerprint:
        raise SurgeonError(f"{path}: was made for other weight files than those beside it; {again}")
    if metadata["surgeon.samples"] != checkpoint.sample_digest():
        raise SurgeonError(f"{path}: the weights beside it were replaced since it was made; {again}")
    expected = int(metadata["surgeon.data_bytes"])
    found = checkpoint.source.files().get(DATA, 0)
    if expected and found != expected:
        raise SurgeonError(
            f"{checkpoint.source.where(DATA)}: has {found} bytes, the graph needs {expected}; {again}"
        )


def _device(device: str, element: int, providers: list[str]) -> str:
    if device not in DEVICES:
        raise SurgeonError(f"--device {device!r} is not known; use {', '.join(DEVICES)}")
    half = element != 1
    has_cuda = "CUDAExecutionProvider" in providers
    if device == "cuda" and not has_cuda:
        raise SurgeonError(
            "--device cuda: this onnxruntime has no CUDA provider; run: pip install 'surgeon[gpu]'"
        )
    if device == "cuda" and not half:
        raise SurgeonError("--device cuda: the graph is float32; export it with --dtype fp16 or bf16")
    chosen = "cuda" if device == "cuda" or (device == "auto" and half and has_cuda) else "cpu"
    if chosen == "cpu" and half:
        raise SurgeonError("the graph is of 16 bits, for CUDA; export it with --dtype fp32 for the CPU")
    return chosen
