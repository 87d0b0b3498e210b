"""An answer, before it is put on the wire."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hub_server.blobs import Blob


@dataclass
class Reply:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Blob = field(default_factory=Blob)
    ranged: bool = False
    """Whether Range and the conditional headers apply."""
    start: int = 0
    stop: int = -1
    """Which bytes of the body are sent; set by plan()."""
    reset: bool = False
    """Break the connection in place of an answer."""
    cut: int | None = None
    """Send no more than so many bytes of the body, then close."""
    cut_hard: bool = False
    """Close with a reset."""
    delay: float = 0.0
    piece: int = 1 << 18
    flip: int | None = None
    """Offset in the file of a byte to change."""

    @property
    def length(self) -> int:
        return self.stop - self.start

    def plan(self, asked: Mapping[str, str]) -> None:
        """Settles which bytes are sent, as the request's Range and conditions ask."""
        self.start, self.stop = 0, self.body.size
        if not self.ranged or self.status != 200:
            return
        etag = self.headers.get("ETag", "")
        if asked.get("if-match", etag) not in (etag, "*"):
            self.status, self.stop = 412, 0
        elif "if-none-match" in asked and asked["if-none-match"] in (etag, "*"):
            self.status, self.stop = 304, 0
        elif "range" in asked and asked.get("if-range", etag) == etag:
            self._take_range(asked["range"])

    def _take_range(self, value: str) -> None:
        # several ranges, and what is no range of bytes, are ignored, as a server may do
        found = re.fullmatch(r"bytes=(\d*)-(\d*)", value.replace(" ", ""))
        if not found or value.strip() == "bytes=-":
            return
        size = self.body.size
        first, last = found.groups()
        if first:
            start, stop = int(first), min(int(last) + 1, size) if last else size
            if last and int(last) < start:
                return
        else:
            start, stop = max(size - int(last), 0), size
        if start >= size or start >= stop:
            self.status, self.stop = 416, 0
            self.headers["Content-Range"] = f"bytes */{size}"
            return
        self.status, self.start, self.stop = 206, start, stop
        self.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Reply:
    body = Blob(json.dumps(value).encode())
    return Reply(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body)


class HubError(Exception):
    """An answer that refuses, with the headers by which the client tells one refusal from another."""

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}

    def reply(self) -> Reply:
        headers = {"X-Error-Message": self.message, **self.headers}
        if self.code:
            headers["X-Error-Code"] = self.code
        return as_json({"error": self.message}, self.status, headers)
