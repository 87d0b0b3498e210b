"""Moves one file's bytes: shares extents where the filesystem can, else lets the kernel copy."""

import contextlib
import errno
import os
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from surgeon.checkpoint.layout import PAGE, Copy, Fill, NewFile

CHUNK = 64 << 20
"""Bytes per system call: small enough for a live progress bar and a prompt Ctrl-C."""

_BUFFER = 8 << 20
_ROWS_BUFFER = 1 << 20
_FICLONERANGE = 0x4020940D  # linux/fs.h: _IOW(0x94, 13, struct file_clone_range)
_CANNOT = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM}
# network filesystems have answers of their own for what they cannot do
_CANNOT |= {errno.EBADF, errno.ETXTBSY, errno.EACCES, errno.ENOENT}

Locate = Callable[[str], Path]
"""From the name of a source file to its path."""


class Stopped(Exception):
    """The copying was told to stop."""


class Copier:
    """Writes the files of a layout into ``folder``; safe to use from several threads.

    ``advance`` is called with the number of bytes that just got their place; ``shared`` counts those
    that were shared with the source rather than copied. OSError passes through.
    """

    def __init__(self, locate: Locate, folder: Path, advance: Callable[[int], None]) -> None:
        self._locate = locate
        self._folder = folder
        self._advance = advance
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.shared = 0

    def stop(self) -> None:
        """Makes all running writes raise Stopped at their next chunk."""
        self._stop.set()

    def write(self, file: NewFile) -> None:
        """Creates one weight file."""
        with contextlib.ExitStack() as stack:
            target = stack.enter_context(open(self._folder / file.name, "wb", buffering=0))
            target.write(file.header)
            target.truncate(file.size)  # what no piece covers stays a hole, which reads as zeros
            sources: dict[str, int] = {}
            for piece in file.pieces:
                if isinstance(piece, Copy) and piece.file not in sources:
                    path = self._locate(piece.file)
                    stream = stack.enter_context(open(path, "rb", buffering=0))
                    sources[piece.file] = stream.fileno()
            sharing = self._can_share(file, sources, target.fileno())
            if not sharing:
                _reserve(target.fileno(), file.size)
            for piece in file.pieces:
                if isinstance(piece, Fill):
                    _write_at(target.fileno(), piece.data, piece.offset)
                    self._moved(len(piece.data))
                elif piece.rows == 1:
                    self._copy(sources[piece.file], target.fileno(), piece, sharing)
                else:
                    self._copy_rows(sources[piece.file], target.fileno(), piece)
        self._moved(len(file.header))

    def _moved(self, count: int, shared: bool = False) -> None:
        with self._lock:
            self.shared += count if shared else 0
            self._advance(count)
        if self._stop.is_set():
            raise Stopped

    def _can_share(self, file: NewFile, sources: dict[str, int], target: int) -> bool:
        """Whether the filesystem shares extents; tried with one real page of the file."""
        for piece in file.pieces:
            pages = _pages(piece) if isinstance(piece, Copy) else None
            if isinstance(piece, Copy) and pages:
                head, _ = pages
                at = piece.source_offset + head
                return share(sources[piece.file], at, target, piece.offset + head, PAGE)
        return False

    def _copy(self, source: int, target: int, piece: Copy, sharing: bool) -> None:
        pages = _pages(piece) if sharing else None
        start, offset, left = piece.source_offset, piece.offset, piece.length
        if pages:
            head, middle = pages
            self._copy_range(source, start, target, offset, head)
            start, offset, left = start + head, offset + head, left - head
            if share(source, start, target, offset, middle):
                self._moved(middle, shared=True)
                start, offset, left = start + middle, offset + middle, left - middle
        self._copy_range(source, start, target, offset, left)

    def _copy_range(self, source: int, start: int, target: int, offset: int, length: int) -> None:
        while length:
            count = copy_some(source, start, target, offset, min(length, CHUNK))
            start, offset, length = start + count, offset + count, length - count
            self._moved(count)

    def _copy_rows(self, source: int, target: int, piece: Copy) -> None:
        """Rows that lie further apart in the new file; buffers stay small."""
        batch = max(1, _ROWS_BUFFER // piece.stride)
        gap = bytes(piece.stride - piece.length)
        for first in range(0, piece.rows, batch):
            rows = min(batch, piece.rows - first)
            data = _read_at(source, rows * piece.length, piece.source_offset + first * piece.length)
            spread = gap.join(data[i : i + piece.length] for i in range(0, len(data), piece.length))
            _write_at(target, spread, piece.offset + first * piece.stride)
            self._moved(len(data))


def _pages(piece: Copy) -> tuple[int, int] | None:
    """Bytes before the first whole page of a copy, and bytes in its whole pages.

    None when old and new place differ within a page, or there is no whole page.
    """
    if piece.rows != 1 or (piece.source_offset - piece.offset) % PAGE:
        return None
    head = -piece.offset % PAGE
    middle = (piece.length - head) // PAGE * PAGE
    return (head, middle) if middle > 0 else None


def shareable(file: NewFile) -> int:
    """Bytes that need no room on a filesystem that shares extents."""
    pages = (_pages(piece) for piece in file.pieces if isinstance(piece, Copy))
    return sum(found[1] for found in pages if found)


def share(source: int, start: int, target: int, offset: int, length: int) -> bool:
    """Lets both files use the same extents (FICLONERANGE); False where that cannot be."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    request = struct.pack("=qQQQ", source, start, length, offset)
    try:
        fcntl.ioctl(target, _FICLONERANGE, request)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def copy_some(source: int, start: int, target: int, offset: int, length: int) -> int:
    """Copies at least one byte, inside the kernel where it can; how many it copied."""
    if hasattr(os, "copy_file_range"):
        try:
            count = os.copy_file_range(source, target, length, start, offset)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
        else:
            if count:
                return count
    data = _read_at(source, min(length, _BUFFER), start)
    _write_at(target, data, offset)
    return len(data)


def _read_at(source: int, length: int, offset: int) -> bytes:
    parts: list[bytes] = []
    os.lseek(source, offset, os.SEEK_SET)
    while length:
        part = os.read(source, length)
        if not part:
            raise OSError(errno.EIO, "the source file became shorter while it was read")
        parts.append(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write_at(target: int, data: bytes, offset: int) -> None:
    os.lseek(target, offset, os.SEEK_SET)
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def _reserve(target: int, size: int) -> None:
    """Claims the room at once: a full disk shows before the copying, and ext4 copies faster.

    The C library's posix_fallocate would write a byte to every block where the filesystem cannot do
    this, so the system call is made directly; where it is missing nothing is lost.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if fallocate is None:
        return
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    if fallocate(target, 0, 0, size) and ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
