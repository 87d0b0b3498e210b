"""Executes a layout: everything goes to a hidden folder that gets its name when it is complete."""

import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from surgeon.checkpoint.copying import Copier, share, shareable
from surgeon.checkpoint.layout import PAGE, Layout
from surgeon.checkpoint.source import Checkpoint, Source
from surgeon.errors import SurgeonError
from surgeon.units import format_size

SURGERY = "surgery.json"
"""The file by which a folder shows that surgeon made it."""


@dataclass(frozen=True)
class Written:
    """What the writing took: bytes of the folder, seconds, and bytes shared instead of copied."""

    size: int
    seconds: float
    shared: int


def check_output(output: Path, checkpoint: Checkpoint, overwrite: bool) -> None:
    """Refuses an output folder that exists, or that is entangled with the source."""
    source = _real(checkpoint.source.path(""))
    target = _real(output)
    if target == source:
        raise SurgeonError(f"{output}: is the model itself; choose another folder for -o")
    if source in target.parents:
        raise SurgeonError(f"{output}: lies inside the model's folder; choose a place outside it")
    holders = {source, *(_real(checkpoint.source.path(shard)) for shard in checkpoint.shards)}
    if any(target in holder.parents for holder in holders):
        raise SurgeonError(f"{output}: contains the model; choose a place outside it")
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise SurgeonError(f"{output}: exists; choose another folder, or allow --overwrite")
    if output.is_symlink() or not output.is_dir():
        raise SurgeonError(f"{output}: is not a folder, so --overwrite leaves it; remove it yourself")
    if any(output.iterdir()) and not (output / SURGERY).is_file():
        raise SurgeonError(
            f"{output}: has no {SURGERY}, so surgeon did not make it and --overwrite leaves it; "
            "remove it yourself"
        )


def _real(path: Path) -> Path:
    """Where a path leads; unlike Path.resolve, not surprised by links that lead in a circle."""
    return Path(os.path.realpath(path))


def write(
    source: Source,
    layout: Layout,
    extras: Mapping[str, bytes | str],
    output: Path,
    overwrite: bool,
    advance: Callable[[int], None] = lambda count: None,
) -> Written:
    """Writes the layout's files and the ``extras`` (bytes, or the name of a source's file).

    ``output`` appears under its name only when all is there; anything staged goes away on an error,
    and what a killed run left is cleared first. Raises SurgeonError on a full or unwritable disk.
    """
    start = time.perf_counter()
    try:
        with _staging(output) as folder:
            _check_room(source, layout, folder)
            copier = Copier(source.path, folder, advance)
            _write_all(copier, layout)
            for name, content in extras.items():
                data = source.read(content) if isinstance(content, str) else content
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
            size = sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
            _publish(folder, output, overwrite)
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "the disk is full; nothing was left behind"
        raise SurgeonError(f"{error.filename or output}: {what}") from None
    return Written(size, time.perf_counter() - start, copier.shared)


def _write_all(copier: Copier, layout: Layout) -> None:
    """All weight files, as many at a time as there are cores up to four: writes to one file queue up
    behind its lock, those to several do not."""
    workers = min(4, os.cpu_count() or 1, len(layout.files))
    with ThreadPoolExecutor(workers) as pool:
        try:
            futures = [pool.submit(copier.write, file) for file in layout.files]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            copier.stop()
            pool.shutdown(cancel_futures=True)
            raise
        if any(future.exception() for future in done):
            copier.stop()
            pool.shutdown(cancel_futures=True)
    for future in done:
        future.result()


def _prefix(output: Path) -> str:
    return f".{output.name}.surgeon-"


@contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A hidden folder beside ``output``, locked as long as this process lives."""
    output.parent.mkdir(parents=True, exist_ok=True)
    # one run at a time between the making of a folder and its lock, or it would look left over
    parent = _lock(output.parent, wait=True)
    try:
        for leftover in output.parent.glob(f"{escape(_prefix(output))}*"):
            lock = _lock(leftover)
            if lock is not None:  # nobody holds it: its process is gone
                shutil.rmtree(leftover, ignore_errors=True)
                os.close(lock)
        folder = Path(tempfile.mkdtemp(prefix=_prefix(output), dir=output.parent))
        lock = _lock(folder)
    finally:
        if parent is not None:
            os.close(parent)
    try:
        umask = os.umask(0)
        os.umask(umask)
        folder.chmod(0o777 & ~umask)  # mkdtemp makes private folders; the result is an ordinary one
        yield folder
    finally:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, wait: bool = False) -> int | None:
    """An open descriptor that holds the folder's lock, or None if another process does."""
    try:
        import fcntl
    except ImportError:  # Windows: folders cannot be locked; leftovers stay until removed by hand
        return None
    handle = None
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return handle
    if handle is not None:
        os.close(handle)
    return None


def _check_room(source: Source, layout: Layout, folder: Path) -> None:
    """Compares what must be written with the free space, before it is written."""
    needed = layout.size
    free = shutil.disk_usage(folder).free
    if needed > free and _shares(source, layout, folder):
        needed -= sum(shareable(file) for file in layout.files)
    if needed > free:
        raise SurgeonError(
            f"{folder.parent}: {format_size(needed)} are needed, but only {format_size(free)} are "
            "free; make room or choose another disk"
        )


def _shares(source: Source, layout: Layout, folder: Path) -> bool:
    """Whether the folder's filesystem shares extents with the source's."""
    names = [t.source.file for t in layout.tensors if t.source is not None]
    probe = folder / "probe"
    with open(source.path(names[0]), "rb") as origin, open(probe, "wb") as target:
        shares = share(origin.fileno(), 0, target.fileno(), 0, PAGE)
    probe.unlink()
    return shares


def _publish(folder: Path, output: Path, overwrite: bool) -> None:
    """Gives the complete folder its name, in place of the one that is there if that is wanted."""
    if overwrite and output.is_dir():
        if _exchange(folder, output):
            return  # the old one now has the staging folder's name, and goes with it
        old = folder / ".replaced"  # the new one takes it along, until it is cleared below
        os.rename(output, old)
        try:
            os.rename(folder, output)
        except BaseException:
            os.rename(old, output)
            raise
        shutil.rmtree(output / old.name, ignore_errors=True)
        return
    try:
        if os.path.lexists(output):
            raise FileExistsError
        os.rename(folder, output)
    except OSError as error:
        if isinstance(error, FileExistsError | NotADirectoryError) or error.errno == errno.ENOTEMPTY:
            raise SurgeonError(
                f"{output}: appeared while the cut was made; it was left alone, try again"
            ) from None
        raise


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two names in one step, so that a killed run loses neither; False where that cannot be."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fcntl.h and linux/fs.h
    names = os.fsencode(first), os.fsencode(second)
    return renameat2 is not None and not renameat2(here, names[0], here, names[1], exchange)
