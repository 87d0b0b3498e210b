"""Executes a layout: moves the bytes into a staged folder, adds the small files, publishes it."""

import errno
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
from surgeon.units import format_size


@dataclass(frozen=True)
class Written:
    """What the writing took: bytes of the folder, seconds, and bytes shared instead of copied."""

    size: int
    seconds: float
    shared: int


def write(
    source: Source,
    layout: Layout,
    extras: Mapping[str, bytes],
    output: Path,
    overwrite: bool,
    advance: Callable[[int], None] = lambda count: None,
) -> Written:
    """Writes the layout's files, and ``extras`` by name.

    ``output`` appears under its name only when all is there; anything staged goes away on an error,
    and what a killed run left is cleared first. Raises SurgeonError on a full or unwritable disk.
    """
    start = time.perf_counter()
    here = source.download()
    try:
        with staging(output) as folder:
            _check_room(here, layout, folder)
            copier = Copier(lambda file: here / file, folder, advance)
            copier.copy(layout.files)
            for name, data in extras.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
            size = sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file())
            publish(folder, output, overwrite)
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = "the disk is full; nothing was left behind"
        raise SurgeonError(f"{error.filename or output}: {what}") from None
    return Written(size, time.perf_counter() - start, copier.shared)


def _check_room(here: Path, layout: Layout, folder: Path) -> None:
    """Compares what must be written with the free space, before it is written."""
    needed = layout.size
    free = shutil.disk_usage(folder).free
    if needed > free and _shares(here, layout, folder):
        needed -= sum(shareable(file) for file in layout.files)
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
