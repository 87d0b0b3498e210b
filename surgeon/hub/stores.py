"""Models in object stores and elsewhere, through fsspec: s3://, gs://, http://, any of its URLs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.hub.http import ATTEMPTS, backoff

_PIECE = 1 << 20

_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "VersionId",
    "mtime",
    "LastModified",
    "last_modified",
    "created",
)
"""Under which names fsspec's filesystems tell one version of a file from another."""


@dataclass(frozen=True)
class StoreSource:
    """A folder of an fsspec filesystem. Nothing is downloaded but what is read.

    ``identity`` is what these very bytes are known by in a later run; None where the store's listing
    tells no versions, so that a later run could take bytes of two versions for one model.
    """

    url: str
    system: Any
    root: str
    sizes: dict[str, int]
    identity: str | None

    @property
    def name(self) -> str:
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def revision(self) -> str | None:
        return None

    @property
    def folder(self) -> Path | None:
        return None

    def files(self) -> dict[str, int]:
        return self.sizes

    def where(self, file: str) -> str:
        return f"{self.url.rstrip('/')}/{file}"

    def read(self, file: str, offset: int = 0, length: int | None = None) -> bytes:
        import time

        end = self.sizes[file] if length is None else min(self.sizes[file], offset + length)
        parts: list[bytes] = []
        self.fetch(file, offset, end, lambda position, data: parts.append(data), time.sleep)
        return b"".join(parts)

    def fetch(
        self,
        file: str,
        start: int,
        end: int,
        take: Callable[[int, bytes], None],
        sleep: Callable[[float], None],
    ) -> None:
        failures = 0
        while start < end:
            stop = min(end, start + _PIECE)
            try:
                data = self.system.cat_file(f"{self.root}/{file}", start=start, end=stop)
            except Exception as error:  # each store has its own
                failures += 1
                if failures == ATTEMPTS or isinstance(error, FileNotFoundError | PermissionError):
                    raise SurgeonError(f"{self.where(file)}: cannot be read ({error})") from None
                sleep(backoff(failures))
                continue
            if len(data) != stop - start:
                raise SurgeonError(
                    f"{self.where(file)}: asked for bytes {start}-{stop - 1}, the store sends "
                    f"{len(data)} bytes; nothing of it was used"
                )
            take(start, data)
            start, failures = stop, 0

    def download(self) -> Path:
        raise SurgeonError(
            f"{self.url}: a model has to be in a folder here to run; prune it with -o FOLDER, "
            "or download it"
        )


def open_store(url: str) -> StoreSource:
    """The folder that an fsspec URL names. SurgeonError if it, or the package for it, is not there."""
    try:
        import fsspec

        system, root = fsspec.core.url_to_fs(url.rstrip("/"))
    except ImportError as error:
        raise SurgeonError(f"{url}: {error}; pip install the package for such addresses") from None
    except ValueError as error:
        raise SurgeonError(f"{url}: {error}") from None
    try:
        entries = system.ls(root, detail=True)
        found: dict[str, int] = {}
        versions: list[str] = []
        for entry in entries:
            name = str(entry["name"]).rstrip("/").rpartition("/")[2]
            if entry["type"] == "file":
                size = (
                    entry["size"] if entry["size"] is not None else system.info(entry["name"])["size"]
                )
                found[name] = int(size)
                told = [f"{key}={entry[key]}" for key in _VERSIONS if entry.get(key)]
                versions.append(f"{name} {size} {told}" if told else "")
    except Exception as error:  # each store has its own
        raise SurgeonError(f"{url}: cannot be listed ({error or type(error).__name__})") from None
    identity = f"{url} {sorted(versions)}" if all(versions) else None
    return StoreSource(url, system, root, found, identity)
