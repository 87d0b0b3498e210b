"""Ways in which the server can misbehave, and the rules that say when."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from hub_server.log import Request
from hub_server.reply import HubError, Reply


class Fault:
    """Does nothing. The three steps come in the order in which they are written here."""

    def instead(self, request: Request) -> Reply | None:
        """An answer in place of the true one: the request has then no effect."""
        return None

    def shape(self, request: Request, reply: Reply) -> None:
        """Changes the answer before ranges are looked at."""

    def spoil(self, request: Request, reply: Reply) -> None:
        """Changes the finished answer."""


@dataclass
class Status(Fault):
    """An error; 429 and 503 with Retry-After in seconds if given."""

    code: int
    retry_after: int | str | None = None
    message: str = "made to fail"
    error_code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def instead(self, request: Request) -> Reply | None:
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return HubError(self.code, self.message, self.error_code, headers).reply()


@dataclass
class Reset(Fault):
    """The connection is reset with no answer; with `done`, after the request has had its effect."""

    done: bool = False

    def instead(self, request: Request) -> Reply | None:
        return None if self.done else Reply(reset=True)

    def spoil(self, request: Request, reply: Reply) -> None:
        reply.reset = True


@dataclass
class Cut(Fault):
    """The connection ends after so many bytes of the body: closed, or reset if `hard`."""

    after: int
    hard: bool = False

    def spoil(self, request: Request, reply: Reply) -> None:
        reply.cut, reply.cut_hard = self.after, self.hard


@dataclass
class ShortBody(Fault):
    """So many bytes fewer than asked for.

    Content-Length is that of the full body, and the connection is closed early; or, if `honest`, it is
    that of the shorter body, so that only Content-Range tells that bytes are missing.
    """

    missing: int = 1
    honest: bool = False

    def spoil(self, request: Request, reply: Reply) -> None:
        shorter = max(reply.length - self.missing, 0)
        if self.honest:
            reply.stop = reply.start + shorter
        else:
            reply.cut = shorter


@dataclass
class IgnoreRange(Fault):
    """200 and the whole file, whatever range was asked for."""

    def shape(self, request: Request, reply: Reply) -> None:
        reply.ranged = False


@dataclass
class WrongContentRange(Fault):
    """Content-Range says another place, or what `value` says; the bytes are the right ones."""

    shift: int = 1
    value: str | None = None

    def spoil(self, request: Request, reply: Reply) -> None:
        if reply.status == 206:
            first, last = reply.start + self.shift, reply.stop - 1 + self.shift
            reply.headers["Content-Range"] = self.value or f"bytes {first}-{last}/{reply.body.size}"


@dataclass
class OtherRange(Fault):
    """The bytes of another place, and a Content-Range that truly says so."""

    shift: int = 1

    def spoil(self, request: Request, reply: Reply) -> None:
        if reply.status == 206:
            reply.start = min(reply.start + self.shift, reply.body.size - 1)
            reply.stop = min(reply.stop + self.shift, reply.body.size)
            reply.headers["Content-Range"] = f"bytes {reply.start}-{reply.stop - 1}/{reply.body.size}"


@dataclass
class Slow(Fault):
    """So many seconds of pause before each piece of the body (before the head if there is no body)."""

    delay: float
    piece: int = 1 << 16

    def spoil(self, request: Request, reply: Reply) -> None:
        reply.delay, reply.piece = self.delay, self.piece


@dataclass
class OtherETag(Fault):
    """ETag and X-Linked-Etag, where they are sent, have another value."""

    value: str = "0" * 40

    def spoil(self, request: Request, reply: Reply) -> None:
        for name in ("ETag", "X-Linked-Etag"):
            if name in reply.headers:
                reply.headers[name] = f'"{self.value}"'


@dataclass
class Headers(Fault):
    """Headers changed, added, or with None left out."""

    values: dict[str, str | None]

    def spoil(self, request: Request, reply: Reply) -> None:
        for name, value in self.values.items():
            reply.headers.pop(name, None)
            if value is not None:
                reply.headers[name] = value


@dataclass
class Corrupt(Fault):
    """One byte of the file, at this offset, is not what it should be."""

    at: int = 0

    def spoil(self, request: Request, reply: Reply) -> None:
        reply.flip = self.at


@dataclass
class Redirect(Fault):
    """A redirect to elsewhere, by default to the same address: a loop."""

    location: str | None = None
    status: int = 302

    def instead(self, request: Request) -> Reply | None:
        same = request.path + (f"?{request.query}" if request.query else "")
        return Reply(self.status, {"Location": self.location or same})


@dataclass
class Hook(Fault):
    """Calls back: once the answer is settled and before it is sent, or with `before`, ahead of both.

    A commit made in the callback is thus seen by every later request, and not in this answer.
    """

    call: Callable[[Request], object]
    before: bool = False

    def instead(self, request: Request) -> Reply | None:
        if self.before:
            self.call(request)
        return None

    def spoil(self, request: Request, reply: Reply) -> None:
        if not self.before:
            self.call(request)


@dataclass
class Rule:
    """A fault for the next `times` requests that match, after the first `skip` of them."""

    fault: Fault
    times: int | None = 1
    skip: int = 0
    host: str | None = None
    method: str | None = None
    path: str | None = None
    kind: str | None = None
    file: str | None = None
    ranged: bool | str | None = None
    when: Callable[[Request], bool] | None = None
    seen: int = 0
    hits: int = 0

    def matches(self, request: Request) -> bool:
        for wanted, value in (
            (self.host, request.host),
            (self.method, request.method),
            (self.kind, request.kind),
            (self.file, request.file),
        ):
            if wanted is not None and wanted != value:
                return False
        if isinstance(self.ranged, str) and self.ranged != request.range:
            return False
        if isinstance(self.ranged, bool) and self.ranged != (request.range is not None):
            return False
        if self.path is not None and not re.search(self.path, request.path):
            return False
        return self.when is None or self.when(request)

    def takes(self, request: Request) -> bool:
        if not self.matches(request):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


class Rules:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []

    def add(self, rule: Rule) -> Rule:
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()

    def taken(self, request: Request) -> list[Fault]:
        """Every fault that this request meets; several may meet in one."""
        with self._lock:
            return [rule.fault for rule in self._rules if rule.takes(request)]
