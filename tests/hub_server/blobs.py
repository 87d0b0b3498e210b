"""Contents of files: small ones in memory, large ones in an open file."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO

PIECE = 1 << 18
IN_MEMORY = 1 << 20


class Blob:
    """Bytes that can be read from any place, with the names that git and LFS give them."""

    def __init__(self, data: bytes = b"", file: IO[bytes] | None = None) -> None:
        self.data = data
        # An open file stays what it was when its path is renamed, replaced or deleted later.
        self.file = file
        self.size = os.fstat(file.fileno()).st_size if file else len(data)

    @classmethod
    def of_path(cls, path: Path) -> "Blob":
        if path.stat().st_size <= IN_MEMORY:
            return cls(path.read_bytes())
        return cls(file=path.open("rb"))

    @classmethod
    def of_pieces(cls, pieces: Iterable[bytes]) -> "Blob":
        """Contents that arrive piece by piece, kept in a nameless temporary file."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the blob is used
        for piece in pieces:
            file.write(piece)
        file.flush()
        return cls(file=file)

    def pieces(self, start: int = 0, stop: int | None = None, length: int = PIECE) -> Iterator[bytes]:
        stop = self.size if stop is None else stop
        while start < stop:
            end = min(start + length, stop)
            if self.file is None:
                yield self.data[start:end]
            else:
                # pread, since many threads read the same file at once
                yield os.pread(self.file.fileno(), end - start, start)
            start = end

    def read(self) -> bytes:
        return b"".join(self.pieces())

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()

    @cached_property
    def git_id(self) -> str:
        digest = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        for piece in self.pieces():
            digest.update(piece)
        return digest.hexdigest()
