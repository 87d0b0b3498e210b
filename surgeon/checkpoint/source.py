"""Where a checkpoint comes from, and what is in it: names and byte ranges, never a loaded tensor.

A ``Source`` reads files and byte ranges. A local folder is one; a Hub repository or an object store
is another with the same four methods, and nothing else in the program has to know.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from surgeon.checkpoint.header import Tensor, header_length, parse_header
from surgeon.checkpoint.tensors import check_tensors
from surgeon.errors import SurgeonError
from surgeon.families import Family, family_of
from surgeon.structure import Structure, read_structure

SAMPLE = "sample"
"""The word for the Llama inside the package."""

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SAMPLE_BYTES = 4096

TEMPLATES = "additional_chat_templates"
"""The one folder that transformers puts files of a model into."""


class Source(Protocol):
    """Files of a checkpoint by name; of folders, only that of chat templates counts."""

    @property
    def name(self) -> str:
        """What a user would call it: ORG/NAME or the folder's name."""

    @property
    def revision(self) -> str | None:
        """The commit, where the source has such a thing."""

    def files(self) -> dict[str, int]:
        """File names and their sizes in bytes."""

    def read(self, file: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file, all of them by default; short only at its end."""

    def where(self, file: str) -> str:
        """A file as messages name it."""

    @property
    def folder(self) -> Path | None:
        """The local folder that holds the files; None where they are elsewhere."""

    def download(self) -> Path:
        """A local folder that holds all files of the model, fetched if need be."""


@dataclass(frozen=True)
class FolderSource:
    """A local folder; a snapshot in the Hub cache knows its repository and commit."""

    folder: Path

    @cached_property
    def hub(self) -> tuple[str, str] | None:
        """Repository and commit, for a snapshot in the Hub cache."""
        match = re.search(
            r"models--([^/]+)/snapshots/([0-9a-f]{40})$", self.folder.absolute().as_posix()
        )
        return (match[1].replace("--", "/"), match[2]) if match else None

    @property
    def name(self) -> str:
        if self.folder == sample_folder():
            return SAMPLE
        return self.hub[0] if self.hub else printable(os.path.basename(os.path.realpath(self.folder)))

    @property
    def revision(self) -> str | None:
        return self.hub[1] if self.hub else None

    def files(self) -> dict[str, int]:
        try:
            found = {e.name: e.stat().st_size for e in os.scandir(self.folder) if e.is_file()}
            if (templates := self.folder / TEMPLATES).is_dir():
                for entry in os.scandir(templates):
                    found[f"{TEMPLATES}/{entry.name}"] = entry.stat().st_size
            return found
        except OSError as error:
            raise SurgeonError(f"{self.folder}: cannot be read ({error.strerror})") from None

    def read(self, file: str, offset: int = 0, length: int | None = None) -> bytes:
        try:
            with open(self.folder / file, "rb") as stream:
                stream.seek(offset)
                return stream.read(-1 if length is None else length)
        except OSError as error:
            raise SurgeonError(f"{self.folder / file}: cannot be read ({error.strerror})") from None

    def where(self, file: str) -> str:
        return str(self.folder / file)

    def download(self) -> Path:
        return self.folder


@dataclass(frozen=True)
class Checkpoint:
    """A model as names and byte ranges, checked in full.

    ``shards`` are the weight files in use with their sizes, in the order of their names; files that
    no index names are not among them. ``metadata`` is what each
    says of itself; ``fingerprint`` is the SHA-256 over their names and headers.
    """

    source: Source
    config: dict[str, Any]
    structure: Structure
    tensors: dict[str, Tensor]
    shards: dict[str, int]
    metadata: dict[str, dict[str, str]]
    fingerprint: str

    @property
    def cut_metadata(self) -> dict[str, str]:
        """What the shards of a cut carry: the first shard's; loaders insist on a format."""
        return {"format": "pt", **next((m for m in self.metadata.values() if m), {})}

    @property
    def family(self) -> Family:
        """The row of families.py."""
        return self.structure.family

    def sample_digest(self) -> str:
        """SHA-256 over a page from the middle of every tensor; tells fine-tunes of one model apart."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            length = min(_SAMPLE_BYTES, tensor.length)
            middle = tensor.offset + (tensor.length - length) // 2
            digest.update(f"{name}\0".encode() + self.source.read(tensor.file, middle, length))
        return digest.hexdigest()


def sample_folder() -> Path:
    """Where the bundled Llama lies."""
    return Path(str(files("surgeon") / "sample"))


def expand(path: str | os.PathLike[str]) -> Path:
    """A user's path with ~ worked out; SurgeonError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SurgeonError(f"{path}: there is no such user; write the path in full") from None


def printable(name: str) -> str:
    """A file name that may not be UTF-8, made so for printing and for JSON."""
    return os.fsencode(name).decode("utf-8", "replace")


def find_source(model: str | os.PathLike[str]) -> Source:
    """The source that MODEL names: the word ``sample``, a folder, ORG/NAME[@REVISION], or a URL.

    A folder of that name is written ./sample, and a folder that is there wins over the Hub. Raises
    SurgeonError when there is none.
    """
    if model == SAMPLE:
        return FolderSource(sample_folder())
    if re.match(r"[a-z][a-z0-9+.-]*://", str(model)):
        from surgeon.hub.stores import open_store

        return open_store(str(model))
    folder = expand(model)
    if os.path.isdir(folder):
        return FolderSource(folder)
    if os.path.exists(folder):
        raise SurgeonError(f"{folder}: is a file; give the folder that holds config.json")
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", str(model), re.ASCII)
    if match:
        from surgeon.hub.source import open_repository

        return open_repository(match[1], match[2])
    raise SurgeonError(f"{folder}: no such folder, and no ORG/NAME of the Hub")


def open_checkpoint(model: str | os.PathLike[str] | Source) -> Checkpoint:
    """Reads config, index and headers of a checkpoint, and checks that they agree.

    Raises SurgeonError for anything a cut could not be made from: an unknown family, a malformed
    safetensors file, missing tensors, a config of other dimensions.
    """
    source = find_source(model) if isinstance(model, str | os.PathLike) else model
    files = source.files()
    if "config.json" not in files:
        raise SurgeonError(
            f"{source.where('config.json')}: not found; is this the folder of a transformers model?"
        )
    config = read_json(source, "config.json")
    family = family_of(config, source.where("config.json"))
    structure = read_structure(config, family, source.where("config.json"))
    shards, weight_map = _shards(source, files)
    tensors, metadata, digest = _read_shards(source, shards, weight_map)
    checkpoint = Checkpoint(source, config, structure, tensors, shards, metadata, digest)
    check_tensors(structure, tensors, source.where(next(iter(shards))))
    return checkpoint


def open_local(model: str | os.PathLike[str]) -> tuple[Checkpoint, Path]:
    """A checkpoint whose files are all here, and their folder: what running a model needs."""
    folder = find_source(model).download()
    return open_checkpoint(FolderSource(folder)), folder


def read_json(source: Source, file: str) -> dict[str, Any]:
    """A JSON object from a source; SurgeonError names the file otherwise."""
    try:
        data = json.loads(source.read(file).decode("utf-8"))
        json.dumps(data, ensure_ascii=False).encode()  # escapes can make what UTF-8 cannot hold
    except (ValueError, RecursionError) as error:
        raise SurgeonError(f"{source.where(file)}: not JSON ({error})") from None
    if not isinstance(data, dict):
        raise SurgeonError(f"{source.where(file)}: not a JSON object")
    return data


def _shards(source: Source, files: dict[str, int]) -> tuple[dict[str, int], dict[str, str]]:
    """The weight files in use and the index's tensor -> file map (empty without an index).

    model.safetensors wins over an index, as in transformers.
    """
    if SINGLE in files:
        return {SINGLE: files[SINGLE]}, {}
    if INDEX not in files:
        raise _no_safetensors(source, files)
    weight_map = read_json(source, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SurgeonError(f"{source.where(INDEX)}: has no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not re.fullmatch(r"[^/\\\0]+", file) or file in (".", ".."):
            raise SurgeonError(
                f"{source.where(INDEX)}: puts {name!r} into {file!r}, which is not a plain file name"
            )
        if file not in files:
            raise SurgeonError(
                f"{source.where(file)}: not found, but {INDEX} puts {name!r} there; "
                "download the missing shard"
            )
    return {file: files[file] for file in sorted(set(weight_map.values()))}, weight_map


def _no_safetensors(source: Source, files: dict[str, int]) -> SurgeonError:
    pickled = sorted(f for f in files if f.endswith((".bin", ".pt", ".pth", ".ckpt")))
    if pickled:
        model = source.folder or source.name
        return SurgeonError(
            f"{source.where(pickled[0])}: pickled weights are never opened; convert once: python -c "
            f'"from transformers import AutoModelForCausalLM as A; '
            f"A.from_pretrained('{model}', dtype='auto').save_pretrained('OUT')\""
        )
    return SurgeonError(f"{source.where(SINGLE)}: not found, nor {INDEX}; no safetensors weights here")


def _read_shards(
    source: Source, shards: dict[str, int], weight_map: dict[str, str]
) -> tuple[dict[str, Tensor], dict[str, dict[str, str]], str]:
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, dict[str, str]] = {}
    digest = hashlib.sha256()
    for file, size in shards.items():
        where = source.where(file)
        length = header_length(source.read(file, 0, 8), size, where)
        raw = source.read(file, 8, length)
        header = parse_header(raw, size, where)
        digest.update(f"{file}\0{size}\0".encode() + raw)
        metadata[file] = header.metadata
        for tensor in header.tensors:
            if weight_map.get(tensor.name, file) != file:
                continue  # a copy in another shard: the index decides
            if tensor.name in tensors:
                other = tensors[tensor.name].file
                raise SurgeonError(f"{where}: tensor {tensor.name!r} is in {other} as well")
            tensors[tensor.name] = Tensor(
                tensor.name, tensor.dtype, tensor.shape, file, tensor.offset, tensor.length
            )
    for name, file in weight_map.items():
        if name not in tensors:
            raise SurgeonError(
                f"{source.where(file)}: tensor {name!r} is missing, but {INDEX} lists it"
            )
    return tensors, metadata, digest.hexdigest()
