"""The operation: ``surgeon.export_onnx`` and ``surgeon export onnx``.

model.onnx is written beside the weights, since it points into them.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from surgeon.checkpoint.numbers import BYTES
from surgeon.checkpoint.source import (
    INDEX,
    Checkpoint,
    FolderSource,
    expand,
    open_checkpoint,
    open_local,
    read_json,
    sample_folder,
)
from surgeon.companions import companion_names
from surgeon.errors import SurgeonError
from surgeon.jsonfile import encode_json
from surgeon.onnx.genai import GENAI, genai_config
from surgeon.onnx.graph import build, check_supported
from surgeon.onnx.rope import Rope, read_rope
from surgeon.onnx.weights import DATA, ELEMENTS, Store
from surgeon.plan import Plan
from surgeon.rule import Choice
from surgeon.structure import Structure
from surgeon.surgery import operate
from surgeon.units import dtype_name, format_size

GRAPH = "model.onnx"

DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
"""The words of the command line, as safetensors dtypes."""


@dataclass(frozen=True)
class ExportReport:
    """What was written. ``seconds`` is all of it; sizes are bytes.

    ``data_bytes`` is the size of model.onnx.data, 0 when every weight is read from the checkpoint;
    ``why`` says why this dtype.
    """

    model: str
    graph: str
    dtype: str
    why: str
    int4: bool
    graph_bytes: int
    data_bytes: int
    kv_bytes_per_token: int
    kv_caches: int
    layers: int
    context_length: int
    seconds: float


def export_onnx(
    model: str | os.PathLike[str],
    dtype: str = "auto",
    *,
    int4: bool = False,
    last_logits_only: bool = False,
    output: str | os.PathLike[str] | None = None,
    without: Plan | None = None,
    announce: Callable[[int], None] = lambda total: None,
    advance: Callable[[int], None] = lambda count: None,
) -> ExportReport:
    """Writes model.onnx and genai_config.json into the folder of ``model``.

    With the checkpoint's own dtype no weight is copied. Another dtype, or ``int4`` (matrices of 4
    bits, the head of 8), writes model.onnx.data too. ``output`` names another folder, which gets hard
    links to the checkpoint's files (copies on another disk); the only way for the bundled sample.
    ``without`` leaves sublayers out of the graph alone, which then points into the bytes of the whole
    model: enough to measure a cut that nobody has made yet.
    ``announce`` gets the bytes to convert, if any, ``advance`` those just converted.

    Raises SurgeonError for what the graph cannot express, and if onnx is not installed.
    """
    start = time.perf_counter()
    whole, here = open_local(model)
    checkpoint = operate(whole, Choice(without), False, 1 << 62).view() if without else whole
    where = str(here / "config.json")
    rope = check_exportable(checkpoint.structure, checkpoint.config, where)
    chosen, why = choose_dtype(checkpoint, dtype)
    store = Store(checkpoint, chosen, 4 if int4 else None)
    try:
        folder = _folder(whole, here, output)
    except OSError as error:
        raise SurgeonError(f"{error.filename or output}: {error.strerror or error}") from None
    graph = build(checkpoint, store, rope, last_logits_only)
    _check_links(folder, store.files)
    metadata = {
        "surgeon.fingerprint": checkpoint.fingerprint,
        "surgeon.samples": whole.sample_digest(),
        "surgeon.data_bytes": str(store.size),
        "surgeon.context_length": str(rope.length),
    }
    text = graph.model("llama", metadata).SerializeToString()
    generation = {}
    if "generation_config.json" in checkpoint.source.files():
        generation = read_json(checkpoint.source, "generation_config.json")
    try:
        genai = genai_config(checkpoint, generation, GRAPH, rope.length, chosen != "F32")
    except (TypeError, ValueError) as error:
        settings = here / "generation_config.json"
        raise SurgeonError(f"{settings}: has settings that are no numbers ({error})") from None
    if store.size:
        announce(store.size)
    _write(folder, store, {GRAPH: text, GENAI: encode_json(genai)}, advance)
    dims = checkpoint.structure.dims
    kv = 2 * dims.num_key_value_heads * dims.head_dim * BYTES[chosen]
    return ExportReport(
        model=checkpoint.source.name,
        graph=str(folder / GRAPH),
        dtype=next(word for word, name in DTYPES.items() if name == chosen),
        why=why,
        int4=int4,
        graph_bytes=len(text),
        data_bytes=store.size,
        kv_bytes_per_token=kv * checkpoint.structure.num_attentions,
        kv_caches=checkpoint.structure.num_attentions,
        layers=checkpoint.structure.num_layers,
        context_length=rope.length,
        seconds=time.perf_counter() - start,
    )


def check_exportable(structure: Structure, config: dict[str, Any], where: str) -> Rope:
    """All that can be refused before a weight is there; the rope settings of the graph."""
    check_supported(structure, config, where)
    if find_spec("onnx") is None:
        raise SurgeonError(
            "export onnx needs onnx, which is not installed; run: pip install 'surgeon[onnxruntime]'"
        )
    return read_rope(structure.family.filled(config), structure.dims.head_dim, where)


def choose_dtype(checkpoint: Checkpoint, dtype: str) -> tuple[str, str]:
    """The dtype that a graph computes in, and why.

    onnxruntime's attention wants 16 bits on CUDA and float32 on a CPU.
    """
    for word, chosen in DTYPES.items():
        if dtype in (word, dtype_name(word)):
            return chosen, "as asked"
    if dtype != "auto":
        raise SurgeonError(f"--dtype {dtype!r} is not known; use auto, {', '.join(DTYPES)}")
    own = checkpoint.tensors[f"{checkpoint.family.embedding}.weight"].dtype
    try:
        import onnxruntime

        providers = onnxruntime.get_available_providers()
    except ImportError:
        providers = []
    if providers and "CUDAExecutionProvider" not in providers:
        return "F32", "this onnxruntime has no CUDA provider, and on a CPU attention is float32"
    if own == "F32":
        return "F16", "the checkpoint is float32, and attention on CUDA is of 16 bits"
    if own not in ELEMENTS:
        return "BF16", f"the checkpoint's {own} is not a dtype of graphs"
    return own, "the checkpoint's own, so that no weight is copied"


def _folder(checkpoint: Checkpoint, here: Path, output: str | os.PathLike[str] | None) -> Path:
    """The folder for the graph, with the weights in it.

    Another folder than the model's gets hard links to the weights, which cost nothing, and copies of
    the files that a user might edit. It must be new, empty, or an earlier one of the same model.
    """
    if output is None:
        if os.path.realpath(here) == os.path.realpath(sample_folder()):
            raise SurgeonError("sample: lies inside the package; export it with -o FOLDER")
        if FolderSource(here).hub is not None:
            raise SurgeonError(f"{here}: lies in the Hub cache; export it with -o FOLDER")
        return here
    folder = expand(output)
    if os.path.lexists(folder) and not folder.is_dir():
        raise SurgeonError(f"{folder}: is not a folder; choose another -o")
    if folder.is_dir() and any(folder.iterdir()):
        there = open_checkpoint(folder)
        if (there.fingerprint, there.sample_digest()) != (
            checkpoint.fingerprint,
            checkpoint.sample_digest(),
        ):
            raise SurgeonError(f"{folder}: holds another model; choose an empty folder for -o")
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*checkpoint.shards, "config.json", INDEX, *companion_names(checkpoint.source)):
        if name in checkpoint.source.files():
            _bring(Path(os.path.realpath(here / name)), folder / name, name in checkpoint.shards)
    return folder


def _bring(origin: Path, target: Path, link: bool) -> None:
    """A hard link, which is a file like any other, or else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        with suppress(OSError):  # another filesystem, or one without links
            os.link(origin, target)
            return
    shutil.copyfile(origin, target)


def _check_links(folder: Path, files: set[str]) -> None:
    """onnxruntime refuses weights behind symbolic links that lead out of the folder of the graph."""
    here = os.path.realpath(folder)
    for file in sorted(files):
        if os.path.dirname(os.path.realpath(folder / file)) != here:
            raise SurgeonError(
                f"{folder / file}: is a link that leads out of the folder, which onnxruntime does not "
                "follow; export with -o FOLDER"
            )


def _write(folder: Path, store: Store, files: dict[str, bytes], advance: Callable[[int], None]) -> None:
    """Each file appears under its name when it is complete; the graph last, after what it needs."""
    try:
        if store.size > (free := shutil.disk_usage(folder).free):
            raise SurgeonError(
                f"{folder}: {format_size(store.size)} are needed, but only {format_size(free)} are free"
            )
        with tempfile.TemporaryDirectory(prefix=".surgeon-", dir=folder) as staging:
            if store.size:
                store.write(Path(staging) / DATA, advance)
            for name, content in files.items():
                (Path(staging) / name).write_bytes(content)
            for name in ([DATA] if store.size else []) + sorted(files):
                os.replace(Path(staging) / name, folder / name)
            if not store.size:
                (folder / DATA).unlink(missing_ok=True)
    except OSError as error:
        raise SurgeonError(f"{error.filename or folder}: {error.strerror or error}") from None
