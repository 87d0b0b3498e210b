"""The test Hub, byte by byte: ranges, redirects, commits, and each misbehaviour."""

import hashlib
import http.client
import json
import random
import time
from pathlib import Path

import pytest
from hub_server import (
    Corrupt,
    Cut,
    Headers,
    Hook,
    HubServer,
    IgnoreRange,
    OtherETag,
    OtherRange,
    Redirect,
    Request,
    Reset,
    ShortBody,
    Slow,
    Status,
    WrongContentRange,
)

# the size of an open file's blob, and of several pieces
WEIGHTS = random.Random(1).randbytes(1_500_000)
FILES: dict[str, bytes | str | Path | None] = {
    "config.json": '{"model_type": "llama"}',
    "sub/deep/a b.txt": "text",
    "model.safetensors": WEIGHTS,
}
NAME = "org/model"
RESOLVE = f"/{NAME}/resolve/main"


@pytest.fixture
def model(hub: HubServer) -> str:
    return hub.add_repo(NAME, FILES)


def storage_url(hub: HubServer, path: str = "model.safetensors") -> str:
    response, _ = hub.fetch(f"{RESOLVE}/{path}")
    assert response.status == 302
    location = response.headers["Location"]
    assert location.startswith(hub.storage_url)
    return str(location)


def test_ranges_through_the_redirect(hub: HubServer, model: str) -> None:
    url = storage_url(hub)
    size = len(WEIGHTS)
    for value, start, stop in (
        ("bytes=0-9", 0, 10),
        ("bytes=300000-", 300_000, size),
        ("bytes=-5", size - 5, size),
        (f"bytes=10-{size * 2}", 10, size),
    ):
        response, body = hub.fetch(url, Range=value)
        assert (response.status, body) == (206, WEIGHTS[start:stop])
        assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
        assert response.headers["Content-Length"] == str(stop - start)
    response, body = hub.fetch(url, Range=f"bytes={size}-")
    assert (response.status, response.headers["Content-Range"], body) == (416, f"bytes */{size}", b"")
    etag = response.headers["ETag"]
    assert hub.fetch(url, Range="bytes=0-0", If_Range='"old"')[0].status == 200
    assert hub.fetch(url, Range="bytes=0-0", If_Range=etag)[0].status == 206
    assert hub.fetch(url, If_Match='"old"')[0].status == 412
    assert hub.fetch(url, If_None_Match=etag)[0].status == 304
    last = hub.log.requests("storage", file="model.safetensors")[0]
    assert (last.range, last.status, last.sent, last.repo) == ("bytes=0-9", 206, 10, NAME)
    hub.reset()
    assert hub.totals.requests == 0


def test_heads_of_the_redirects(hub: HubServer, model: str) -> None:
    response, _ = hub.fetch(f"{RESOLVE}/model.safetensors", "HEAD")
    assert response.status == 302
    assert response.headers["X-Repo-Commit"] == model
    assert response.headers["X-Linked-Size"] == str(len(WEIGHTS))
    assert response.headers["X-Linked-Etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    response, _ = hub.fetch(f"{RESOLVE}/sub/deep/a%20b.txt", "HEAD")
    assert response.status == 307
    location = response.headers["Location"]
    assert location.startswith("/api/resolve-cache/")
    response, body = hub.fetch(location, Range="bytes=1-2")
    assert (response.status, body) == (206, b"ex")
    assert response.headers["ETag"] == f'"{hub.file(NAME, "sub/deep/a b.txt").oid}"'
    assert response.headers["X-Repo-Commit"] == model


def test_storage_takes_no_token_and_no_old_link(hub: HubServer, model: str) -> None:
    url = storage_url(hub)
    assert hub.fetch(url, Authorization="Bearer hf_owner")[0].status == 400
    assert [request.token for request in hub.leaks] == ["hf_owner"]
    assert hub.fetch(url.split("?", maxsplit=1)[0])[0].status == 403
    hub.expire_links()
    assert hub.fetch(url)[0].status == 403


def test_commits_stay_and_have_ids_of_git(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "big.safetensors").write_bytes(WEIGHTS)
    (folder / "a.txt").write_text("a")
    first = hub.add_repo("org/folder", folder=folder)
    (folder / "sub" / "big.safetensors").unlink()
    second = hub.commit("org/folder", {"a.txt": None, "b.txt": "b"})
    assert hub.files("org/folder", first) == {"a.txt": b"a", "sub/big.safetensors": WEIGHTS}
    assert set(hub.files("org/folder", second[:8])) == {"b.txt", "sub/big.safetensors"}
    assert len({first, second}) == 2
    assert all(len(oid) == 40 and int(oid, 16) for oid in (first, second))
    # what `git hash-object` and `git mktree` say of one file "a" with the text "a"
    hub.add_repo("org/one", {"a": "a"})
    commit = hub.repos["org/one"].resolve("main")
    assert commit
    assert commit.files["a"].oid == "2e65efe2a145dda7ee51d1741299f848e5bf752e"
    tree = b"100644 a\0" + bytes.fromhex("2e65efe2a145dda7ee51d1741299f848e5bf752e")
    assert commit.trees[""] == hashlib.sha1(b"tree %d\0" % len(tree) + tree).hexdigest()


# -- misbehaviour


def test_status_with_retry_after_and_only_as_often_as_told(hub: HubServer, model: str) -> None:
    hub.misbehave(Status(429, retry_after=7), times=2, kind="info")
    hub.misbehave(Status(502), path="resolve/main/config", method="HEAD")
    seen = [hub.fetch(f"/api/models/{NAME}")[0] for _ in range(3)]
    assert [(one.status, one.headers["Retry-After"]) for one in seen[:2]] == [(429, "7")] * 2
    assert seen[2].status == 200
    assert hub.fetch(f"{RESOLVE}/config.json")[0].status == 307
    assert hub.fetch(f"{RESOLVE}/config.json", "HEAD")[0].status == 502
    assert hub.fetch(f"{RESOLVE}/config.json", "HEAD")[0].status == 307
    assert [one.faults for one in hub.requests[:2]] == [["Status"]] * 2
    hub.misbehave(Status(500), times=None)
    assert hub.fetch("/api/whoami-v2")[0].status == 500
    hub.behave()
    assert hub.fetch("/api/whoami-v2")[0].status == 401


@pytest.mark.parametrize("hard", [False, True])
def test_cut(hub: HubServer, model: str, hard: bool) -> None:
    url = storage_url(hub)
    hub.misbehave(Cut(100_000, hard=hard), file="model.safetensors", ranged=True)
    with pytest.raises(ConnectionResetError if hard else http.client.IncompleteRead) as caught:
        hub.fetch(url, Range="bytes=5-")
    if isinstance(caught.value, http.client.IncompleteRead):
        assert caught.value.partial == WEIGHTS[5:100_005]
    assert hub.log.requests("storage")[0].sent == 100_000
    assert hub.fetch(url)[1] == WEIGHTS


def test_reset_before_and_after_the_deed(hub: HubServer, model: str) -> None:
    hub.misbehave(Reset(), kind="create-branch")
    hub.misbehave(Reset(done=True), kind="create-branch", skip=1)
    for name, there in (("one", False), ("two", True)):
        with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
            hub.fetch(
                f"/api/models/{NAME}/branch/{name}", "POST", b"{}", Authorization=f"Bearer {hub.token}"
            )
        assert (name in hub.repos[NAME].branches) is there


def test_ranges_that_are_not_as_asked(hub: HubServer, model: str) -> None:
    url = storage_url(hub)

    def ask_range() -> tuple[int, str | None, int, bytes]:
        response, body = hub.fetch(url, Range="bytes=10-19")
        length = int(response.headers["Content-Length"])
        return response.status, response.headers["Content-Range"], length, body

    size = len(WEIGHTS)
    hub.misbehave(IgnoreRange(), ranged="bytes=10-19")
    assert ask_range() == (200, None, size, WEIGHTS)
    hub.misbehave(WrongContentRange())
    assert ask_range() == (206, f"bytes 11-20/{size}", 10, WEIGHTS[10:20])
    hub.misbehave(WrongContentRange(value="bytes */*"))
    assert ask_range() == (206, "bytes */*", 10, WEIGHTS[10:20])
    hub.misbehave(OtherRange(2))
    assert ask_range() == (206, f"bytes 12-21/{size}", 10, WEIGHTS[12:22])
    hub.misbehave(ShortBody(3, honest=True))
    assert ask_range() == (206, f"bytes 10-19/{size}", 7, WEIGHTS[10:17])
    hub.misbehave(Corrupt(at=12))
    body = ask_range()[-1]
    assert [place for place in range(10) if body[place] != WEIGHTS[10 + place]] == [2]
    hub.misbehave(ShortBody(3))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask_range()
    assert caught.value.partial == WEIGHTS[10:17]
    assert ask_range() == (206, f"bytes 10-19/{size}", 10, WEIGHTS[10:20])


def test_slow(hub: HubServer, model: str) -> None:
    url = storage_url(hub)
    hub.misbehave(Slow(0.02, piece=10), host="storage")
    start = time.monotonic()
    assert hub.fetch(url, Range="bytes=0-49")[1] == WEIGHTS[:50]
    assert time.monotonic() - start >= 0.1


def test_headers_etags_and_redirects(hub: HubServer, model: str) -> None:
    address = f"{RESOLVE}/model.safetensors"
    hub.misbehave(OtherETag("f" * 64), method="HEAD")
    assert hub.fetch(address, "HEAD")[0].headers["X-Linked-Etag"] == f'"{"f" * 64}"'
    hub.misbehave(Headers({"X-Repo-Commit": None, "X-Linked-Size": "5"}))
    head = hub.fetch(address, "HEAD")[0].headers
    assert (head["X-Repo-Commit"], head["X-Linked-Size"]) == (None, "5")
    hub.misbehave(Redirect(), times=None, kind="resolve")
    for _ in range(3):
        response, _ = hub.fetch(address)
        assert (response.status, response.headers["Location"]) == (302, address)


def test_a_branch_that_moves_between_requests(hub: HubServer, model: str) -> None:
    moved: list[str] = []

    def move(request: Request) -> None:
        moved.append(hub.commit(NAME, {"model.safetensors": b"other"}))

    hub.misbehave(Hook(move), kind="info")
    seen = [json.loads(hub.fetch(f"/api/models/{NAME}")[1])["sha"] for _ in range(2)]
    assert seen == [model, *moved]
    assert hub.fetch(storage_url(hub))[1] == b"other"
    assert hub.files(NAME, model)["model.safetensors"] == WEIGHTS
