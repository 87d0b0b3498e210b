"""Executes a layout: moves the bytes into a staged folder, adds the small files, publishes it."""

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from surgeon.checkpoint.copying import Copier, share, shareable
from surgeon.checkpoint.layout import PAGE, Layout
from surgeon.checkpoint.source import Source
from surgeon.checkpoint.staging import publish, staging
from surgeon.errors import SurgeonError
from surgeon.hub.fetching import Fetcher
from surgeon.hub.source import HubSource
from surgeon.hub.stores import StoreSource
from surgeon.units import format_size


@dataclass(frozen=True)
class Written:
    """What the writing took: bytes of the folder, seconds; bytes shared with the source instead of
    copied, and bytes of weights that came over the network."""

    size: int
    seconds: float
    shared: int
    fetched: int


def write(
    source: Source,
    layout: Layout,
    extras: Mapping[str, bytes],
    output: Path,
    overwrite: bool,
    advance: Callable[[int], None] = lambda count: None,
) -> Written:
    """Writes the layout's files, and ``extras`` by name.

    ``output`` appears under its name only when all is there. Anything staged goes away on an error, and
    what a killed run left is cleared first; only what came over the network is kept for another run of
    the same. Raises SurgeonError on a full or unwritable disk.
    """
    start = time.perf_counter()
    resume = None
    identity = source.identity if isinstance(source, HubSource | StoreSource) else None
    if identity is not None:
        headers = b"".join(file.header for file in layout.files)
        resume = hashlib.sha256(identity.encode() + headers).hexdigest()[:16]
    try:
        with staging(output, resume) as folder:
            mover = _mover(source, layout, folder, advance)
            mover.copy(layout.files)
            for name, data in extras.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
            size = sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
            publish(folder, output, overwrite)
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "the disk is full; " + (
                "what was fetched is kept for the next run" if resume else "nothing was left behind"
            )
        raise SurgeonError(f"{error.filename or output}: {what}") from None
    fetched = mover.fetched if isinstance(mover, Fetcher) else 0
    return Written(size, time.perf_counter() - start, mover.shared, fetched)


def _mover(
    source: Source, layout: Layout, folder: Path, advance: Callable[[int], None]
) -> "Copier | Fetcher":
    """What brings the bytes, from a folder or over a network. Checks that there is room."""
    if isinstance(source, HubSource | StoreSource):
        _check_room(layout.size - _already(folder), folder)
        return Fetcher(source, folder, advance)
    here = source.download()
    free = shutil.disk_usage(folder).free
    shared = layout.size > free and _shares(here, layout, folder)
    needed = layout.size - (sum(shareable(file) for file in layout.files) if shared else 0)
    _check_room(needed, folder)
    return Copier(lambda file: here / file, folder, advance)


def _already(folder: Path) -> int:
    """Bytes on the disk that an earlier run fetched; files have holes where it did not."""
    return sum(512 * entry.stat().st_blocks for entry in folder.iterdir())


def _check_room(needed: int, folder: Path) -> None:
    """Compares what must be written with the free space, before it is written."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SurgeonError(
            f"{folder.parent}: {format_size(needed)} are needed, but only {format_size(free)} are "
            "free; make room or choose another disk"
        )


def _shares(here: Path, layout: Layout, folder: Path) -> bool:
    """Whether the folder's filesystem shares extents with the source's."""
    names = [t.source.file for t in layout.tensors if t.source is not None]
    probe = folder / "probe"
    with open(here / names[0], "rb") as origin, open(probe, "wb") as target:
        shares = share(origin.fileno(), 0, target.fileno(), 0, PAGE)
    probe.unlink()
    return shares
