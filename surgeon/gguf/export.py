"""The operation: ``surgeon.export_gguf`` and ``surgeon export gguf``."""

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from surgeon.checkpoint.numbers import BYTES, Reader
from surgeon.checkpoint.source import Checkpoint, expand, open_local, read_json
from surgeon.checkpoint.staging import SURGERY
from surgeon.errors import SurgeonError
from surgeon.gguf.data import data
from surgeon.gguf.header import write_header
from surgeon.gguf.pieces import Piece, architecture, pieces
from surgeon.gguf.tokenizer import read_tokenizer
from surgeon.onnx.rope import Rope, read_rope
from surgeon.runtimes import unsupported_by_llama_cpp
from surgeon.units import format_size

DTYPES = {
    "f32": "F32",
    "fp32": "F32",
    "float32": "F32",
    "f16": "F16",
    "fp16": "F16",
    "float16": "F16",
    "bf16": "BF16",
    "bfloat16": "BF16",
    "q8_0": "Q8_0",
    "q8": "Q8_0",
}
"""The words for a dtype, ggml's and those of others."""

ALIGNMENT = 32
"""Every tensor begins at a multiple of so many bytes, counted from the first; the format's default."""

ROPES = ("default", "linear", "llama3")


@dataclass(frozen=True)
class GgufReport:
    """What was written; ``size`` is in bytes, ``seconds`` is all of it.

    ``notes`` says where llama.cpp is known to treat text in another way, and what is not in ``dtype``.
    """

    model: str
    file: str
    architecture: str
    dtype: str
    tokenizer: str
    tensors: int
    size: int
    seconds: float
    notes: tuple[str, ...]


def export_gguf(
    model: str | os.PathLike[str],
    dtype: str = "auto",
    *,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    announce: Callable[[int], None] = lambda total: None,
    advance: Callable[[int], None] = lambda count: None,
) -> GgufReport:
    """Writes a model as one GGUF file, tensor by tensor, in bounded memory.

    ``dtype`` is that of the matrices: "f16", "bf16", "f32" or "q8_0"; "auto" is the checkpoint's own.
    ``output`` defaults to NAME-DTYPE.gguf in the current folder; it appears when it is complete.
    ``announce`` gets the bytes to write, ``advance`` those just written.

    Raises SurgeonError for a model that llama.cpp would not compute as transformers does, for a file
    that exists (unless ``overwrite``), a full disk, and if the gguf package is not installed.
    """
    start = time.perf_counter()
    checkpoint, here = open_local(model)
    rope = check_exportable(checkpoint, str(here / "config.json"))
    chosen = choose_dtype(checkpoint, dtype)
    tokenizer = read_tokenizer(checkpoint)
    tensors = pieces(checkpoint, rope, chosen)
    default = f"{checkpoint.source.name.rpartition('/')[2]}-{chosen.lower()}.gguf"
    file = expand(default if output is None else output)
    _check_output(file, overwrite)
    total = sum(_padded(piece.length) for piece in tensors)
    announce(total)

    def write(path: Path) -> None:
        write_header(path, checkpoint, tensors, chosen, rope, tokenizer, _words(checkpoint))
        if total > (free := shutil.disk_usage(path.parent).free):
            raise SurgeonError(
                f"{file}: {format_size(total)} are needed, but only {format_size(free)} are free"
            )
        _write_tensors(path, checkpoint, tensors, advance)

    _publish(file, overwrite, write)
    wider = sum(piece.dtype == "F16" for piece in tensors) if chosen == "Q8_0" else 0
    rows = f"{wider} matrices whose rows are no multiple of 32 are f16"
    return GgufReport(
        model=checkpoint.source.name,
        file=str(file),
        architecture=architecture(checkpoint),
        dtype=chosen.lower(),
        tokenizer=f"{tokenizer.model}, {tokenizer.pre}",
        tensors=len(tensors),
        size=file.stat().st_size,
        seconds=time.perf_counter() - start,
        notes=(*tokenizer.notes, *([rows] if wider else [])),
    )


def check_exportable(checkpoint: Checkpoint, where: str) -> Rope:
    """All that can be refused by the config alone; the rope settings."""
    config = checkpoint.family.filled(checkpoint.config)
    reason = unsupported_by_llama_cpp(checkpoint.structure, config)
    if reason is not None:
        raise SurgeonError(f"{where}: llama.cpp {reason}")
    if find_spec("gguf") is None:
        raise SurgeonError(
            "export gguf needs gguf, which is not installed; run: pip install 'surgeon[gguf]'"
        )
    rope = read_rope(config, checkpoint.structure.dims.head_dim, where)
    if rope.kind not in ROPES:
        raise SurgeonError(
            f"{where}: rope type {rope.kind!r} is not exported to GGUF; known are {', '.join(ROPES)}"
        )
    return rope


def choose_dtype(checkpoint: Checkpoint, dtype: str) -> str:
    """The dtype of the matrices by its word; "auto" is that of the embedding."""
    if dtype == "auto":
        own = checkpoint.tensors[f"{checkpoint.family.embedding}.weight"].dtype
        return own if own in BYTES else "F32"
    chosen = DTYPES.get(dtype.lower())
    if chosen is None:
        raise SurgeonError(f"--dtype {dtype!r} is not known; use auto, bf16, f16, f32 or q8_0")
    return chosen


def _words(checkpoint: Checkpoint) -> str | None:
    """What a cut says of itself."""
    if SURGERY not in checkpoint.source.files():
        return None
    surgery = read_json(checkpoint.source, SURGERY)
    source = surgery.get("source")
    model = source.get("model") if isinstance(source, dict) else None
    return f"{model}, {surgery.get('words')}"


def _check_output(file: Path, overwrite: bool) -> None:
    if file.is_dir():
        raise SurgeonError(f"{file}: is a folder; name a file for -o")
    if os.path.lexists(file) and not overwrite:
        raise SurgeonError(f"{file}: exists; choose another -o, or allow --overwrite")


def _padded(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


def _write_tensors(
    path: Path, checkpoint: Checkpoint, tensors: tuple[Piece, ...], advance: Callable[[int], None]
) -> None:
    reader = Reader(checkpoint)
    with open(path, "ab") as stream:
        for piece in tensors:
            begin = stream.tell()
            for part in data(reader, piece):
                advance(stream.write(part))
            if stream.tell() - begin != piece.length:
                raise SurgeonError(f"{path}: {piece.name!r} has not the length it should")
            advance(stream.write(bytes(_padded(piece.length) - piece.length)))


def _publish(file: Path, overwrite: bool, write: Callable[[Path], None]) -> None:
    """Lets ``write`` fill a hidden file beside ``file``, which then gets its name."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.surgeon-", dir=file.parent) as folder:
            staged = Path(folder) / file.name
            write(staged)
            if overwrite:
                os.replace(staged, file)
                return
            try:
                os.link(staged, file)  # unlike a rename, it leaves alone what appeared meanwhile
            except FileExistsError:
                raise SurgeonError(f"{file}: appeared meanwhile; it was left alone") from None
            except OSError:  # a filesystem without links
                os.rename(staged, file)
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "the disk is full; nothing was left behind"
        raise SurgeonError(f"{error.filename or file}: {what}") from None
