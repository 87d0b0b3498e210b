"""Downloads the bytes of a layout straight into their place in the new files.

Byte ranges that are neighbours in the repository are one request, whatever becomes of them here. Each
finished request stands in a journal with its hash: a later run reads those bytes again from the disk
and fetches only what does not agree.
"""

import contextlib
import hashlib
import json
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from surgeon.checkpoint.layout import Copy, NewFile
from surgeon.threads import run_threads

JOURNAL = "journal"

_REQUEST = 32 << 20
"""Bytes of one request at most."""

_GAP = 16 << 10
"""Bytes between two wanted ranges that are cheaper to fetch than to ask twice."""

_CONNECTIONS = 8

_PIECE = 256 << 10


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes of a remote file and their place here."""

    file: str
    start: int
    length: int
    target: str
    offset: int


@dataclass(frozen=True)
class Request:
    """One range of a remote file, and the segments in it, ascending."""

    file: str
    start: int
    end: int
    segments: tuple[Segment, ...]


def segments(files: Iterable[NewFile]) -> Iterator[Segment]:
    """All that has to be fetched for these files, in pieces no longer than a request."""
    for file in files:
        for piece in file.pieces:
            if isinstance(piece, Copy):
                for row in range(piece.rows):
                    start = piece.source_offset + row * piece.length
                    offset = piece.offset + row * piece.stride
                    for done in range(0, piece.length, _REQUEST):
                        length = min(_REQUEST, piece.length - done)
                        yield Segment(piece.file, start + done, length, file.name, offset + done)


def requests(wanted: Iterable[Segment]) -> list[Request]:
    """Segments joined into requests, in the order of the remote bytes."""
    groups: list[list[Segment]] = []
    for segment in sorted(wanted, key=lambda s: (s.file, s.start)):
        last = groups[-1] if groups else None
        end = segment.start + segment.length
        if (
            last
            and last[-1].file == segment.file
            and segment.start - (last[-1].start + last[-1].length) <= _GAP
            and end - last[0].start <= _REQUEST
        ):
            last.append(segment)
        else:
            groups.append([segment])
    return [Request(g[0].file, g[0].start, g[-1].start + g[-1].length, tuple(g)) for g in groups]


class RemoteSource(Protocol):
    """A source whose bytes come over a network."""

    def fetch(
        self,
        file: str,
        start: int,
        end: int,
        take: Callable[[int, bytes], None],
        sleep: Callable[[float], None],
    ) -> None:
        """Calls ``take(offset, data)`` for the bytes [start, end) of a file, in order."""


class _Stopped(Exception):
    """Another request failed, or Ctrl-C came."""


class Fetcher:
    """Fills the files of a layout in ``folder`` from a repository or a store.

    ``advance`` gets the number of wanted bytes that are in place; ``fetched`` counts bytes that came
    over the network for the weights. SurgeonError when the repository cannot be read to the end.
    """

    shared = 0

    def __init__(self, source: RemoteSource, folder: Path, advance: Callable[[int], None]) -> None:
        self._source = source
        self._folder = folder
        self._advance = advance
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.fetched = 0

    def copy(self, files: Iterable[NewFile]) -> None:
        """Creates all the files, or completes those of an earlier run."""
        files = list(files)
        plan = requests(segments(files))
        done = self._journal()
        with contextlib.ExitStack() as stack:
            targets = {file.name: self._create(file, stack) for file in files}
            journal = stack.enter_context(open(self._folder / JOURNAL, "a", buffering=1))
            left = [r for r in plan if not self._is_there(r, done, targets)]
            queue = iter(left)

            def work() -> None:
                while not self._stopped.is_set():
                    with self._lock:
                        request = next(queue, None)
                    if request is None:
                        return
                    self._run(request, targets, journal.write)

            run_threads(_CONNECTIONS, work, self._stopped.set)
        (self._folder / JOURNAL).unlink()

    def _create(self, file: NewFile, stack: contextlib.ExitStack) -> int:
        handle = os.open(self._folder / file.name, os.O_RDWR | os.O_CREAT, 0o666)
        stack.callback(os.close, handle)
        os.ftruncate(handle, file.size)
        os.pwrite(handle, file.header, 0)
        for piece in file.pieces:
            if not isinstance(piece, Copy):
                os.pwrite(handle, piece.data, piece.offset)
        return handle

    def _journal(self) -> dict[str, str]:
        """Hashes of the requests that an earlier run finished; a torn last line does not count."""
        found: dict[str, str] = {}
        with contextlib.suppress(OSError), open(self._folder / JOURNAL) as lines:
            for line in lines:
                with contextlib.suppress(ValueError, KeyError):
                    entry = json.loads(line)
                    found[entry["request"]] = entry["sha256"]
        return found

    def _is_there(self, request: Request, done: dict[str, str], targets: dict[str, int]) -> bool:
        expected = done.get(_key(request))
        if expected is None:
            return False
        if _hash(request, targets) != expected:
            return False
        self._advance(sum(segment.length for segment in request.segments))
        return True

    def _run(self, request: Request, targets: dict[str, int], note: Callable[[str], object]) -> None:
        starts = [segment.start for segment in request.segments]

        def take(position: int, data: bytes) -> None:
            if self._stopped.is_set():
                raise _Stopped
            view = memoryview(data)
            with self._lock:
                self.fetched += len(view)
            number = max(0, bisect_right(starts, position) - 1)
            while view and number < len(request.segments):
                segment = request.segments[number]
                skip = segment.start - position
                if skip > 0:  # bytes between two segments
                    view, position = view[skip:], position + min(skip, len(view))
                    continue
                part = view[: max(0, segment.start + segment.length - position)]
                if part:
                    _write(targets[segment.target], part, segment.offset + position - segment.start)
                    with self._lock:
                        self._advance(len(part))
                view, position = view[len(part) :], position + len(part)
                number += 1

        self._source.fetch(request.file, request.start, request.end, take, self._sleep)
        with self._lock:
            note(json.dumps({"request": _key(request), "sha256": _hash(request, targets)}) + "\n")

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise _Stopped


def _hash(request: Request, targets: dict[str, int]) -> str:
    """SHA-256 of what is on the disk for a request."""
    digest = hashlib.sha256()
    for segment in request.segments:
        for done in range(0, segment.length, _PIECE):
            length = min(_PIECE, segment.length - done)
            digest.update(os.pread(targets[segment.target], length, segment.offset + done))
    return digest.hexdigest()


def _key(request: Request) -> str:
    places = [(s.start, s.length, s.target, s.offset) for s in request.segments]
    return hashlib.sha256(json.dumps([request.file, places]).encode()).hexdigest()


def _write(target: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(target, data, offset)
        data, offset = data[count:], offset + count
