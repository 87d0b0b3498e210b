"""Cutting what lies in a store that fsspec reads: in memory, and on a web server."""

import errno
import functools
import http.server
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import surgeon
from surgeon.errors import SurgeonError

fsspec = pytest.importorskip("fsspec")
SAMPLE = Path(__file__).resolve().parents[2] / "surgeon" / "sample"


@pytest.fixture
def memory() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    for path in SAMPLE.iterdir():
        system.pipe_file(f"/models/sample/{path.name}", path.read_bytes())
    yield "memory://models/sample"
    system.rm("/models", recursive=True)


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Python's own server, which knows no ranges, taught them."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        span = self.headers.get("Range")
        if span is None or not path.is_file():
            super().do_GET()
            return
        first, last = (int(n) for n in span.removeprefix("bytes=").split("-"))
        data = path.read_bytes()
        part = data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    pytest.importorskip("aiohttp")
    handler = functools.partial(Ranges, directory=str(SAMPLE.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/sample"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("store", ["memory", "web"])
def test_the_same_as_from_a_folder(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(store)
    report = surgeon.prune(url, tmp_path / "out", drop="block", last=4, max_shard_size="1MB")
    surgeon.prune("sample", tmp_path / "local", drop="block", last=4, max_shard_size="1MB")
    assert report.fetched_bytes > 0
    assert report.not_fetched_bytes > 0
    for path in (tmp_path / "local").iterdir():
        if path.name not in ("surgery.json", "README.md"):
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    assert surgeon.verify(tmp_path / "out", against=url).ok
    assert surgeon.inspect(url).layers == 12


def test_a_store_that_fails_now_and_then(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = fsspec.filesystem("memory")
    real, calls = type(system).cat_file, []

    def flaky(self: object, path: str, **span: int) -> bytes:
        calls.append(path)
        if len(calls) % 3 == 0:
            raise OSError("try again")
        return bytes(real(self, path, **span))

    monkeypatch.setattr(type(system), "cat_file", flaky)
    monkeypatch.setattr("surgeon.hub.stores.backoff", lambda failures: 0.0)
    surgeon.prune(memory, tmp_path / "out", last=2)
    assert len(calls) > 3
    assert surgeon.verify(tmp_path / "out", "sample").ok


def test_a_short_answer(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("memory")
    real = type(system).cat_file
    monkeypatch.setattr(type(system), "cat_file", lambda self, path, **s: real(self, path, **s)[:-1])
    with pytest.raises(SurgeonError, match="nothing of it was used"):
        surgeon.prune(memory, tmp_path / "out", last=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://nowhere", "cannot be listed"),
        ("nosuch://bucket/model", "nosuch"),
        ("http://127.0.0.1:9/model", "cannot be listed"),
    ],
)
def test_refusals(url: str, words: str, tmp_path: Path) -> None:
    if url.startswith("http"):
        pytest.importorskip("aiohttp")
    with pytest.raises(SurgeonError, match=words) as refused:
        surgeon.prune(url, tmp_path / "out", last=2)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_running_needs_a_folder(memory: str) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(SurgeonError, match="in a folder here"):
        surgeon.export_onnx(memory)


def test_a_full_disk_keeps_what_was_fetched(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run fetches only the rest."""
    real, monkey = os.pwrite, pytest.MonkeyPatch()

    def full(handle: int, data: bytes, offset: int) -> int:
        if offset > 2_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data, offset)

    monkeypatch.setattr("surgeon.hub.fetching._REQUEST", 200_000)
    with monkey.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(SurgeonError, match="what was fetched is kept"):
            surgeon.prune(memory, tmp_path / "out", last=2)
    assert not (tmp_path / "out").exists()
    report = surgeon.prune(memory, tmp_path / "out", last=2)
    assert 0 < report.fetched_bytes < report.after.disk_bytes
    assert surgeon.verify(tmp_path / "out", "sample").ok
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_no_room(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SurgeonError, match="are needed"):
        surgeon.prune(memory, tmp_path / "out", last=2)
    assert not (tmp_path / "out").exists()


def test_a_store_that_changed_is_fetched_anew(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other weights behind the same header must not be mixed with what an earlier run fetched."""
    system, real = fsspec.filesystem("memory"), os.pwrite

    def full(handle: int, data: bytes, offset: int) -> int:
        if offset > 2_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data, offset)

    monkeypatch.setattr("surgeon.hub.fetching._REQUEST", 200_000)
    with pytest.MonkeyPatch().context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(SurgeonError, match="disk is full"):
            surgeon.prune(memory, tmp_path / "out", last=2)
    data = bytearray((SAMPLE / "model.safetensors").read_bytes())
    data[20_000:-1000:2] = bytes(len(data[20_000:-1000:2]))
    system.pipe_file("/models/sample/model.safetensors", bytes(data))
    surgeon.prune(memory, tmp_path / "out", last=2)
    assert surgeon.verify(tmp_path / "out", memory).ok
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
