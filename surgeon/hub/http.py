"""Ranges of remote files, in full or not at all: retried, pinned and checked.

The connections are huggingface_hub's, with the user's proxies and certificates: requests' up to 0.36,
httpx's since.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from surgeon.errors import SurgeonError

ATTEMPTS = 6
"""Tries in a row without a byte of progress."""

_LONGEST_WAIT = 60.0
_PIECE = 256 << 10


@dataclass(frozen=True)
class Remote:
    """A file at an address: its size in bytes is known, and must not change."""

    url: str
    where: str
    size: int
    headers: Mapping[str, str]
    etags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    pieces: Iterator[bytes]


def fetch(
    remote: Remote,
    start: int,
    end: int,
    take: Callable[[int, bytes], None],
    sleep: Callable[[float], None],
) -> None:
    """Calls ``take(offset, data)`` for the bytes [start, end) of a file, in order and without gaps.

    Goes on where a connection broke; waits as long as the server asks for. ``sleep`` may raise to end
    it. Raises SurgeonError after ``ATTEMPTS`` failures in a row, and at once for an answer that no
    other try can mend.
    """
    position, failures, problem = start, 0, ""
    while position < end:
        if failures == ATTEMPTS:
            raise SurgeonError(
                f"{remote.where}: {problem}, {failures} times in a row; what was fetched is kept, "
                "run the same again later"
            )
        if failures:
            sleep(backoff(failures))
        failures += 1
        try:
            with _get(remote, position, end) as answer:
                wait = _check(remote, answer, position, end)
                if wait is not None:
                    problem = f"the server answers {answer.status}"
                    if wait:
                        sleep(min(wait, _LONGEST_WAIT))
                    continue
                for piece in answer.pieces:
                    data = piece[: end - position]
                    take(position, data)
                    position += len(data)
                    failures = 0 if data else failures
        except _transport_errors() as error:
            problem = f"the connection fails ({type(error).__name__})"
            if type(error).__name__ == "TooManyRedirects":
                raise SurgeonError(f"{remote.where}: the server redirects in a circle") from None
        else:
            problem = "the server sends less than it says"


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return float(min(0.5 * 2**failures, _LONGEST_WAIT) * random.uniform(0.5, 1))


@contextmanager
def _get(remote: Remote, start: int, end: int) -> Iterator[_Answer]:
    from huggingface_hub.utils import get_session

    session: Any = get_session()
    headers = {
        **remote.headers,
        "Range": f"bytes={start}-{end - 1}",
        "Accept-Encoding": "identity",
    }
    if callable(getattr(session, "stream", None)):  # httpx
        with session.stream(
            "GET", remote.url, headers=headers, follow_redirects=True, timeout=30
        ) as response:
            yield _Answer(response.status_code, response.headers, response.iter_bytes(_PIECE))
        return
    response = session.get(remote.url, headers=headers, stream=True, timeout=(10, 30))
    try:
        yield _Answer(response.status_code, response.headers, response.iter_content(_PIECE))
    finally:
        response.close()


def _transport_errors() -> tuple[type[BaseException], ...]:
    from huggingface_hub.utils import get_session

    library = import_module(type(get_session()).__module__.partition(".")[0])
    return OSError, getattr(library, "HTTPError", OSError)


def _check(remote: Remote, answer: _Answer, start: int, end: int) -> float | None:
    """None for the range that was asked for; seconds to wait before another try; or SurgeonError."""
    status = answer.status
    if status == 429 or status >= 500:
        after = answer.headers.get("Retry-After", "")
        return float(after) if after.isdigit() else 0.0
    if status in (401, 403):
        raise SurgeonError(
            f"{remote.where}: access is refused ({status}); if the model is gated, accept its terms on "
            "its page, then log in with: hf auth login"
        )
    if status == 200 and not (start == 0 and end == remote.size):
        raise SurgeonError(
            f"{remote.where}: the server sends the whole file where a part was asked for; "
            "download the model and cut it from its folder"
        )
    if status not in (200, 206):
        raise SurgeonError(f"{remote.where}: the server answers {status}")
    if status == 206:
        span = answer.headers.get("Content-Range", "")
        if span != f"bytes {start}-{end - 1}/{remote.size}":
            raise SurgeonError(
                f"{remote.where}: asked for bytes {start}-{end - 1} of {remote.size}, the server sends "
                f"{span or 'something else'}; nothing of it was used"
            )
    etag = answer.headers.get("ETag")
    if etag and remote.etags.setdefault("storage", etag) != etag:
        raise SurgeonError(f"{remote.where}: changed while it was read; run the same again")
    return None


def read(remote: Remote, start: int, end: int) -> bytes:
    """The bytes [start, end) of a file."""
    parts: list[bytes] = []
    fetch(remote, start, end, lambda offset, data: parts.append(data), time.sleep)
    return b"".join(parts)
