"""Signed addresses of storage, and the large files that arrive there."""

import hashlib
import itertools
import threading
from dataclasses import dataclass, field
from typing import Any

from hub_server.blobs import Blob
from hub_server.reply import HubError
from hub_server.repos import Repo


@dataclass
class Grant:
    """What a signature permits: to read `blob`, or to send the file `oid` or a part of it."""

    repo: Repo
    oid: str
    path: str = ""
    blob: Blob = field(default_factory=Blob)
    upload: str | None = None
    part: int | None = None


class Uploads:
    def __init__(self, hub_url: str, storage_url: str, part_size: int) -> None:
        self.hub_url, self.storage_url, self.part_size = hub_url, storage_url, part_size
        self.grants: dict[str, Grant] = {}
        self._parts: dict[str, dict[int, Blob]] = {}
        self._count = itertools.count(1)
        self._lock = threading.Lock()

    def sign(self, grant: Grant) -> str:
        with self._lock:
            secret = f"{grant.repo.id} {grant.oid} {next(self._count)}".encode()
            signature = hashlib.sha256(secret).hexdigest()
            self.grants[signature] = grant
        return f"X-Expires=3600&X-Signature={signature}"

    def address(self, grant: Grant) -> str:
        return f"{self.storage_url}/{grant.repo.id}/{grant.oid}?{self.sign(grant)}"

    def action(self, repo: Repo, oid: str, size: int) -> dict[str, Any]:
        """What the batch request is told about one file; nothing to do if it is there already."""
        found: dict[str, Any] = {"oid": oid, "size": size, "authenticated": True}
        if oid in repo.uploaded:
            return found
        verify = {"href": f"{self.hub_url}/{repo.id}.git/info/lfs/objects/verify", "header": {}}
        if size <= self.part_size:
            upload: dict[str, Any] = {"href": self.address(Grant(repo, oid)), "header": {}}
        else:
            name = f"upload-{next(self._count)}"
            header = {"chunk_size": str(self.part_size)}
            for number in range(1, -(-size // self.part_size) + 1):
                header[str(number)] = self.address(Grant(repo, oid, upload=name, part=number))
            done = Grant(repo, oid, upload=name)
            upload = {
                "href": f"{self.hub_url}/api/complete_multipart?{self.sign(done)}",
                "header": header,
            }
        found["actions"] = {"upload": upload, "verify": verify}
        return found

    def put(self, signature: str, blob: Blob) -> str:
        grant = self.grants[signature]
        if grant.upload is not None and grant.part is not None:
            with self._lock:
                self._parts.setdefault(grant.upload, {})[grant.part] = blob
        else:
            self._accept(grant, blob)
        return blob.sha256[:32]

    def complete(self, signature: str | None, oid: str, parts: list[dict[str, Any]]) -> None:
        grant = self.grants.get(signature or "")
        if grant is None or grant.upload is None or grant.part is not None or grant.oid != oid:
            raise HubError(403, "Access denied")
        stored = self._parts.get(grant.upload, {})
        named = [(part["partNumber"], part["etag"].strip('"')) for part in parts]
        if named != [(number, stored[number].sha256[:32]) for number in sorted(stored)]:
            raise HubError(400, "One or more of the specified parts could not be found")
        pieces = (piece for number in sorted(stored) for piece in stored[number].pieces())
        self._accept(grant, Blob.of_pieces(pieces))
        self._parts.pop(grant.upload)

    @staticmethod
    def _accept(grant: Grant, blob: Blob) -> None:
        if blob.sha256 != grant.oid:
            raise HubError(400, f"the contents have the SHA-256 {blob.sha256}, not {grant.oid}")
        grant.repo.uploaded[grant.oid] = blob
