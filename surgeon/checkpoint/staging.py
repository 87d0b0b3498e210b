"""The output folder: refused where it must not be, made under a hidden name, published when complete.

Beside OUT, ``.OUT.surgeon-*`` is a folder in the making, locked as long as its process lives, and
``.OUT.replaced-*`` the one that OUT was until a moment ago.
"""

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from surgeon.errors import SurgeonError

SURGERY = "surgery.json"
"""The file by which a folder shows that surgeon made it."""


def check_output(output: Path, folder: Path | None, shards: Iterable[str], overwrite: bool) -> None:
    """Refuses an output folder that exists, or that is entangled with the source's ``folder``."""
    target = _real(output)
    if folder is not None:
        source = _real(folder)
        if target == source:
            raise SurgeonError(f"{output}: is the model itself; choose another folder for -o")
        if source in target.parents:
            raise SurgeonError(f"{output}: lies inside the model's folder; choose a place outside it")
        holders = {source, *(_real(folder / shard) for shard in shards)}
        if any(target in holder.parents for holder in holders):
            raise SurgeonError(f"{output}: contains the model; choose a place outside it")
    if target == _real(Path.cwd()):
        raise SurgeonError(f"{output}: is the current folder; choose another one for -o")
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise SurgeonError(f"{output}: exists; choose another folder, or allow --overwrite")
    if output.is_symlink() or not output.is_dir():
        raise SurgeonError(f"{output}: is not a folder, so --overwrite leaves it; remove it yourself")
    if not _ours(output):
        raise SurgeonError(
            f"{output}: has no {SURGERY}, so surgeon did not make it and --overwrite leaves it; "
            "remove it yourself"
        )


@contextmanager
def staging(output: Path, resume: str | None = None) -> Iterator[Path]:
    """A hidden folder beside ``output``, which is gone afterwards unless it was published.

    What killed runs left is cleared first; a folder that one of them was about to replace comes back.
    With ``resume``, a name for the work at hand, the folder stays after an error, and the next run for
    the same work gets it again.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    # one run at a time between the making of a folder and its lock, or it would look left over
    parent = lock_folder(output.parent, wait=True)
    try:
        prefix = f".{output.name}.surgeon-"
        kept = output.parent / f"{prefix}{resume}" if resume else None
        _clear(output, kept)
        if kept is None:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=output.parent))
        else:
            folder = kept
            folder.mkdir(exist_ok=True)
        lock = lock_folder(folder)
        if lock is None and kept is not None and os.name == "posix":
            raise SurgeonError(f"{output}: another run is making it; wait for that one")
    finally:
        if parent is not None:
            os.close(parent)
    try:
        umask = os.umask(0)
        os.umask(umask)
        folder.chmod(0o777 & ~umask)  # mkdtemp makes private folders; the result is an ordinary one
        yield folder
    except BaseException:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        if folder.exists():  # what an exchange of names put there
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        if lock is not None:
            os.close(lock)


def publish(folder: Path, output: Path, overwrite: bool) -> None:
    """Gives the complete folder its name, in place of the one that is there if that is wanted."""
    if overwrite and output.is_dir() and _ours(output):
        if _exchange(folder, output):
            return  # the old one now has the staging folder's name, and goes with it
        old = Path(f"{folder.parent}/.{output.name}.replaced-{os.getpid()}")
        os.rename(output, old)
        try:
            os.rename(folder, output)
        except BaseException:
            os.rename(old, output)
            raise
        shutil.rmtree(old, ignore_errors=True)
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


def _real(path: Path) -> Path:
    """Where a path leads; unlike Path.resolve, not surprised by links that lead in a circle."""
    return Path(os.path.realpath(path))


def _ours(output: Path) -> bool:
    return (output / SURGERY).is_file() or not any(output.iterdir())


def _clear(output: Path, kept: Path | None) -> None:
    for leftover in output.parent.glob(f".{escape(output.name)}.surgeon-*"):
        lock = lock_folder(leftover) if leftover != kept else None
        if lock is not None:  # nobody holds it: its process is gone
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)
    for old in output.parent.glob(f".{escape(output.name)}.replaced-*"):
        if os.path.lexists(output):
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, output)


def lock_folder(folder: Path, wait: bool = False) -> int | None:
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


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two names in one step, so that a killed run loses neither; False where that cannot be."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of linux/fcntl.h and linux/fs.h
    names = os.fsencode(first), os.fsencode(second)
    return renameat2 is not None and not renameat2(here, names[0], here, names[1], exchange)
