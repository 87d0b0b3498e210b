"""A report on disk: bench.json, from which it is gone on with, and bench.md and index.html to read."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from surgeon.checkpoint.staging import lock_folder
from surgeon.errors import SurgeonError
from surgeon.jsonfile import encode_json
from surgeon.measure.files import document_files, write_file
from surgeon.measure.latency.report import document
from surgeon.measure.latency.values import Bench

JSON = "bench.json"
NAMES = {"report.md": "bench.md"}
"""Files that have another name here than in the folder of a sweep."""


@contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Holds the folder of a report against a second run. It is made if it is not there, and gone again
    if nothing comes into it. SurgeonError where another run has it, or it cannot be made."""
    if folder is None or (folder.exists() and not folder.is_dir()):
        yield  # ``read`` has the word on a file
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SurgeonError(f"{folder}: {error.strerror}") from None
    lock = lock_folder(folder)
    if lock is None and os.name == "posix":
        raise SurgeonError(f"{folder}: another run is writing it; wait for that one")
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)
        with suppress(OSError):
            folder.rmdir()


def read(folder: Path) -> Bench | None:
    """The report of a folder, None where there is none yet.

    SurgeonError for one that cannot be read, for a folder that is none, and for one of other files,
    a sweep's report among them.
    """
    path = folder / JSON
    try:
        return Bench.from_json(json.loads(path.read_bytes()), str(path))
    except FileNotFoundError:
        if folder.is_dir() and not all(file.name.startswith(".") for file in folder.iterdir()):
            raise SurgeonError(
                f"{folder}: has files, but no {JSON}; choose another folder for -o"
            ) from None
        return None
    except OSError as error:
        raise SurgeonError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise SurgeonError(f"{path}: is not JSON ({error}); choose another folder for -o") from None


def check_same(there: Bench, here: Bench, folder: Path) -> None:
    """SurgeonError unless times of both may stand in one table."""
    old = {**vars(there.subject), **there.settings}
    new = {**vars(here.subject), **here.settings}
    for key, value in new.items():
        if old.get(key) != value:
            raise SurgeonError(
                f"{folder / JSON}: was measured with {key} {old.get(key)}, not {value}; choose another "
                "folder for -o"
            )


def keep(report: Bench, folder: Path) -> None:
    """Writes bench.json in place of the one before."""
    write_file(folder / JSON, encode_json(report.to_json()))


def save(report: Bench, folder: Path) -> None:
    """Writes bench.json, and what people read: bench.md, index.html and the charts."""
    keep(report, folder)
    for name, data in document_files(document(report)).items():
        write_file(folder / NAMES.get(name, name), data)
