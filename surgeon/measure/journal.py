"""What is scored so far, on disk: a killed run goes on where it stopped.

A file of JSON lines. The first says what was measured and how; each other holds the scores of one cut
for one part of the items, and is on the disk before the next part is begun.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from surgeon.checkpoint.staging import lock_folder
from surgeon.errors import SurgeonError
from surgeon.measure.grid import Variant
from surgeon.measure.scoring import Part, Result, Score

FORMAT = 1

_START = b'{"format": '
"""How a header begins: one that a kill has torn is written anew, another file is left alone."""


def cut_key(variant: Variant) -> str:
    """A cut by what it removes; its words do not count."""
    return hashlib.sha256(json.dumps(variant.to_json()["removed"]).encode()).hexdigest()[:16]


class Journal:
    """The journal of one folder, locked against a second run as long as it is open.

    ``header`` holds what all scores depend on: the model, its dtype, the settings. SurgeonError when
    the folder has the journal of something else, or is no folder of a report.
    """

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        self._path = folder / "journal.jsonl"
        self._results: dict[tuple[str, str], Result] = {}
        if folder.exists() and not folder.is_dir():
            raise SurgeonError(f"{folder}: is a file; give a folder for the report")
        if folder.is_dir() and not self._path.exists() and any(folder.iterdir()):
            raise SurgeonError(f"{folder}: is not a report's folder; choose a new one")
        # as it will be read back, so that tuples and lists compare
        wanted = json.loads(json.dumps({"format": FORMAT, **header}))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(folder)
            if self._lock is None and os.name == "posix":
                raise SurgeonError(f"{folder}: another run is writing it; wait for that one")
            try:
                end = self._read(folder, wanted)
                self._stream = open(self._path, "ab")  # noqa: SIM115 - open as long as the journal
                self._stream.truncate(end)
                if end == 0:
                    self._write([wanted])
            except BaseException:
                self._unlock()
                raise
        except OSError as error:
            raise SurgeonError(f"{folder}: cannot be written ({error.strerror})") from None

    def _read(self, folder: Path, wanted: dict[str, Any]) -> int:
        """Takes in the lines that are whole and returns where they end; a kill can tear the last."""
        if not self._path.exists():
            return 0
        end = 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            try:
                data = json.loads(line if line.endswith(b"\n") else b"")
                if end:
                    scores = tuple(Score(logprob, bool(greedy)) for logprob, greedy in data["scores"])
                    self._results[data["part"], data["cut"]] = Result(scores, data["seconds"])
            except (ValueError, KeyError, TypeError):
                if not end and line[: len(_START)] != _START[: len(line)]:
                    raise SurgeonError(_foreign(folder)) from None
                break
            if not end:
                _check(folder, data, wanted)
            end += len(line)
        return end

    def get(self, part: Part, variant: Variant) -> Result | None:
        """The scores of a part under a variant, if they are known."""
        return self._results.get((part.digest, cut_key(variant)))

    def put(self, part: Part, variants: Sequence[Variant], results: Sequence[Result]) -> None:
        """Keeps the results of a part; they are on the disk when it returns."""
        lines = []
        for variant, result in zip(variants, results, strict=True):
            key = part.digest, cut_key(variant)
            self._results[key] = result
            scores = [[score.logprob, int(score.greedy)] for score in result.scores]
            lines.append({"part": key[0], "cut": key[1], "seconds": result.seconds, "scores": scores})
        try:
            self._write(lines)
        except OSError as error:
            raise SurgeonError(f"{self._path}: cannot be written ({error.strerror})") from None

    def _write(self, lines: Iterable[dict[str, Any]]) -> None:
        self._stream.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)


def _foreign(folder: Path) -> str:
    return f"{folder}/journal.jsonl: is not a journal of surgeon; choose a new folder"


def _check(folder: Path, found: Any, wanted: dict[str, Any]) -> None:
    """Refuses a journal of another measurement."""
    if not isinstance(found, dict) or "format" not in found:
        raise SurgeonError(_foreign(folder))
    differing = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    if differing:
        what = ", ".join(differing)
        raise SurgeonError(f"{folder}: is the report of another {what}; choose a new folder")
