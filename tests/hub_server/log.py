"""What was asked and what was sent."""

import threading
from dataclasses import dataclass, field


@dataclass
class Request:
    host: str
    """"hub" or "storage"."""
    method: str
    path: str
    """As sent, still quoted, without the query."""
    query: str
    headers: dict[str, str]
    """Names in lower case."""
    kind: str = "unknown"
    """What it is: info, tree, resolve, content, refs, commit, lfs-batch, upload, ... (routes.py)."""
    repo: str | None = None
    file: str | None = None
    """Path in the repository, for resolve and content."""
    status: int = 0
    sent: int = 0
    """Bytes of the body, without the head."""
    received: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @property
    def authorized(self) -> bool:
        """Whether an Authorization header came with it."""
        return "authorization" in self.headers

    @property
    def token(self) -> str | None:
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token if kind.lower() == "bearer" and token else None

    def __str__(self) -> str:
        parts = [
            self.host,
            self.method,
            self.path,
            self.range or "",
            str(self.status),
            f"{self.sent} B",
        ]
        return " ".join(part for part in [*parts, *self.faults] if part)


@dataclass(frozen=True)
class Totals:
    requests: int
    sent: int
    received: int


class Log:
    """The requests in the order in which they came, from both hosts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Request] = []

    def add(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)

    def reset(self) -> None:
        with self._lock:
            self._requests.clear()

    def requests(
        self,
        host: str | None = None,
        kind: str | None = None,
        method: str | None = None,
        file: str | None = None,
    ) -> list[Request]:
        with self._lock:
            found = list(self._requests)
        wanted = {"host": host, "kind": kind, "method": method, "file": file}
        given = {key: value for key, value in wanted.items() if value is not None}
        return [one for one in found if all(getattr(one, key) == value for key, value in given.items())]

    def totals(
        self,
        host: str | None = None,
        kind: str | None = None,
        method: str | None = None,
        file: str | None = None,
    ) -> Totals:
        found = self.requests(host, kind, method, file)
        return Totals(len(found), sum(one.sent for one in found), sum(one.received for one in found))
