"""The test Hub, seen by the real client."""

import hashlib
import json
import random
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from hub_server import Cut, HubServer, Status

Run = Callable[..., subprocess.CompletedProcess[str]]

# the size of an open file's blob, and of several pieces
WEIGHTS = random.Random(1).randbytes(1_500_000)
FILES: dict[str, bytes | str | Path | None] = {
    "config.json": '{"model_type": "llama"}',
    "sub/deep/a b.txt": "text",
    "model.safetensors": WEIGHTS,
}
NAME = "org/model"


needs_client = pytest.mark.skipif(not find_spec("huggingface_hub"), reason="needs huggingface_hub")


@pytest.fixture
def model(hub: HubServer) -> str:
    return hub.add_repo(NAME, FILES)


def ask(run: Run, code: str, *args: object, token: str | None = None, **env: str) -> object:
    """What the program's last line says, as JSON."""
    head = "import json, sys\nfrom pathlib import Path\nimport huggingface_hub as h\napi = h.HfApi()\n"
    done = run(head + code, *args, token=token, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# -- the real client reads


@needs_client
@pytest.mark.parametrize("page_size", [2, 1000])
def test_client_reads_info_tree_and_refs(
    hub: HubServer, model: str, run_python: Run, page_size: int
) -> None:
    hub.page_size = page_size
    hub.repos[NAME].tags["v1"] = model
    code = """
info = api.model_info("org/model", files_metadata=True)
tree = list(api.list_repo_tree("org/model", recursive=True))
flat = [one.path for one in api.list_repo_tree("org/model")]
below = [one.path for one in api.list_repo_tree("org/model", "sub/deep")]
some = api.get_paths_info("org/model", ["config.json", "missing", "sub"])
refs = api.list_repo_refs("org/model")
print(json.dumps({
    "sha": info.sha,
    "lfs": {one.rfilename: one.lfs and one.lfs["sha256"] for one in info.siblings},
    "blobs": {one.rfilename: one.blob_id for one in info.siblings},
    "tree": {one.path: getattr(one, "size", None) for one in tree},
    "flat": flat, "below": below, "some": [one.path for one in some],
    "tags": [[one.name, one.target_commit] for one in refs.tags],
    "commits": [one.commit_id for one in api.list_repo_commits("org/model")],
    "main": [one.target_commit for one in refs.branches if one.name == "main"],
}))
"""
    found = ask(run_python, code)
    assert isinstance(found, dict)
    assert found["sha"] == model == found["main"][0] == found["tags"][0][1] == found["commits"][0]
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert found["lfs"] == {"config.json": None, "model.safetensors": sha256, "sub/deep/a b.txt": None}
    text = hashlib.sha1(b"blob 4\0text").hexdigest()
    assert found["blobs"]["sub/deep/a b.txt"] == text
    sizes = {"config.json": 23, "model.safetensors": len(WEIGHTS), "sub/deep/a b.txt": 4}
    assert found["tree"] == {**sizes, "sub": None, "sub/deep": None}
    assert sorted(found["flat"]) == ["config.json", "model.safetensors", "sub"]
    assert found["below"] == ["sub/deep/a b.txt"]
    assert sorted(found["some"]) == ["config.json", "sub"]
    pages = len(hub.log.requests(kind="tree"))
    assert pages == (3 + 2 + 1 if page_size == 2 else 3)


@needs_client
@pytest.mark.parametrize("cache", [True, False])
def test_client_downloads(hub: HubServer, model: str, run_python: Run, cache: bool) -> None:
    hub.resolve_cache = cache
    hub.commit(NAME, {"config.json": "{}", "new.txt": "new"})
    code = """
folder = Path(api.snapshot_download("org/model"))
one = Path(h.hf_hub_download("org/model", "model.safetensors", revision=sys.argv[1]))
local = Path(h.snapshot_download("org/model", revision=sys.argv[1], local_dir="local"))
print(json.dumps([str(folder), str(one), str(local)]))
"""
    found = ask(run_python, code, model, token=hub.token)
    assert isinstance(found, list)
    folder, one, local = map(Path, found)
    for path, contents in hub.files(NAME).items():
        assert (folder / path).read_bytes() == contents
    assert folder.name == hub.head(NAME)
    assert one.read_bytes() == WEIGHTS
    for path, contents in hub.files(NAME, model).items():
        assert (local / path).read_bytes() == contents
    # the token went to the Hub, and to no other host
    assert all(request.authorized for request in hub.log.requests("hub", kind="resolve"))
    assert hub.log.requests("storage")
    assert not hub.leaks
    links = [request.status for request in hub.log.requests(kind="resolve", file="config.json")]
    assert set(links) == ({307} if cache else {200})


@needs_client
def test_client_raises_its_own_errors(hub: HubServer, model: str, run_python: Run) -> None:
    hub.add_repo("org/private", FILES, private=True, token="hf_friend")
    hub.add_repo("org/gated", FILES, gated=True, token="hf_friend")
    hub.add_user("stranger", "hf_stranger")
    code = """
found = []
def attempt(call, *args, **kwargs):
    try:
        found.append(type(call(*args, **kwargs)).__name__)
    except Exception as error:
        response = getattr(error, "response", None)
        status = error if response is None else response.status_code
        found.append(f"{type(error).__name__} {status}")
for token in (False, "hf_stranger", "hf_wrong", "hf_friend"):
    attempt(api.model_info, "org/private", token=token)
    attempt(h.hf_hub_download, "org/private", "config.json", token=token)
    attempt(api.model_info, "org/gated", token=token)
    attempt(h.hf_hub_download, "org/gated", "config.json", token=token)
    attempt(api.model_info, "org/missing", token=token)
attempt(api.model_info, "org/model", revision="none")
attempt(h.hf_hub_download, "org/model", "config.json", revision="none")
attempt(h.hf_hub_download, "org/model", "none.json")
attempt(h.snapshot_download, "org/model", revision="none")
attempt(lambda: list(api.list_repo_tree("org/model", "none")))
print(json.dumps(found))
"""
    found = ask(run_python, code)
    assert isinstance(found, list)
    gone, gated = "RepositoryNotFoundError", "GatedRepoError"
    assert found[:5] == [f"{gone} 401", f"{gone} 401", "ModelInfo", f"{gated} 401", f"{gone} 401"]
    assert found[5:10] == [f"{gone} 404", f"{gone} 404", "ModelInfo", f"{gated} 403", f"{gone} 404"]
    assert found[10:15] == ["HfHubHTTPError 401"] * 5
    assert found[15:20] == ["ModelInfo", "str", "ModelInfo", "str", f"{gone} 404"]
    assert found[20:22] == ["RevisionNotFoundError 404"] * 2
    assert found[22] in ("EntryNotFoundError 404", "RemoteEntryNotFoundError 404")
    assert found[23] == "RevisionNotFoundError 404"
    assert found[24] in ("EntryNotFoundError 404", "RemoteEntryNotFoundError 404")


@needs_client
def test_client_gets_over_failures(hub: HubServer, model: str, run_python: Run) -> None:
    hub.misbehave(Status(503), method="HEAD", kind="resolve")
    cut = hub.misbehave(Cut(700_000), host="storage", kind="content")
    # an older client gives up where a newer one asks for the rest: both have the file in the end
    code = """
def load():
    return h.hf_hub_download("org/model", "model.safetensors")
try:
    load()
except Exception as error:
    assert "700000 bytes read" in str(error)
print(json.dumps(load()))
"""
    assert Path(str(ask(run_python, code))).read_bytes() == WEIGHTS
    assert cut.hits == 1
    first, *others = hub.log.requests("storage")
    assert (first.sent, first.faults) == (700_000, ["Cut"])
    assert [one.status for one in others] in ([200], [206])


# -- the real client writes


@needs_client
def test_client_uploads(hub: HubServer, run_python: Run, tmp_path: Path) -> None:
    hub.uploads.part_size = 600_000
    folder = tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "small.safetensors").write_bytes(b"small")
    (folder / "empty.bin").write_bytes(b"")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# text\n")
    (folder / "sub" / "config.json").write_text("{}")
    code = """
url = api.create_repo("org/new", private=True)
again = api.create_repo("org/new", exist_ok=True)
assert url == again and url.repo_id == "org/new"
try:
    api.create_repo("org/new")
    raise SystemExit("twice")
except h.errors.HfHubHTTPError as error:
    assert error.response.status_code == 409
first = api.upload_folder(repo_id="org/new", folder_path=sys.argv[1])
api.create_branch("org/new", branch="dev/x")
api.create_branch("org/new", branch="dev/x", exist_ok=True)
api.create_tag("org/new", tag="v1")
def put(data, path, **where):
    return api.upload_file(repo_id="org/new", path_or_fileobj=data, path_in_repo=path, **where)
second = put(b"dev", "dev.txt", revision="dev/x")
operations = [h.CommitOperationDelete("README.md"), h.CommitOperationDelete("sub/", is_folder=True),
              h.CommitOperationAdd("other.safetensors", sys.argv[1] + "/model.safetensors"),
              h.CommitOperationCopy("small.safetensors", "copy.safetensors")]
third = api.create_commit("org/new", operations, commit_message="title", parent_commit=first.oid)
try:
    api.create_commit("org/new", [h.CommitOperationAdd("late", b"late")], commit_message="late",
                      parent_commit=first.oid)
    raise SystemExit("late")
except h.errors.HfHubHTTPError as error:
    assert error.response.status_code == 412
pull = put(b"pull", "p.txt", create_pr=True)
assert pull.pr_revision == "refs/pr/1"
put(b"more", "q.txt", revision="refs/pr/1")
empty = api.create_pull_request("org/new", title="empty")
refs = api.list_repo_refs("org/new", include_pull_requests=True)
name = Path(h.hf_hub_download("org/new", "q.txt", revision="refs/pr/1"))
print(json.dumps([first.oid, second.oid, third.oid, pull.oid, empty.num, name.read_text(),
                  sorted(one.ref for one in refs.branches + refs.tags + refs.pull_requests),
                  api.whoami()["name"]]))
"""
    found = ask(run_python, code, folder, token=hub.token)
    assert isinstance(found, list)
    first, second, third, pull, number, more, refs, user = found
    sent = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = hub.files("org/new", first)
    assert files.pop(".gitattributes")
    assert files == {name: path.read_bytes() for name, path in sent.items()}
    assert hub.file("org/new", "model.safetensors").lfs
    assert not hub.file("org/new", "empty.bin").lfs
    assert hub.head("org/new", "dev/x") == second
    assert hub.files("org/new", "dev/x")["dev.txt"] == b"dev"
    assert hub.head("org/new") == third
    assert set(hub.files("org/new")) == {
        *(".gitattributes", "copy.safetensors", "empty.bin", "model.safetensors"),
        *("other.safetensors", "small.safetensors"),
    }
    assert hub.files("org/new")["other.safetensors"] == WEIGHTS
    assert hub.files("org/new", pull)["p.txt"] == b"pull"
    assert (number, more, user) == (2, "more", "owner")
    assert refs == ["refs/heads/dev/x", "refs/heads/main", "refs/pr/1", "refs/pr/2", "refs/tags/v1"]
    assert hub.repos["org/new"].private
    # one file in three parts, the small one at once, and neither a second time
    assert sorted(one.received for one in hub.log.requests(kind="upload")) == [
        5,
        300_000,
        600_000,
        600_000,
    ]
    assert len(hub.log.requests(kind="lfs-complete")) == 1
    assert not hub.leaks


@needs_client
def test_client_may_not_write_everywhere(hub: HubServer, model: str, run_python: Run) -> None:
    hub.add_user("guest", "hf_guest")
    code = """
def status(call, *args, **kwargs):
    try:
        return [0, str(call(*args, **kwargs))]
    except Exception as error:
        return [error.response.status_code, type(error).__name__]
def commit(repo="org/model", **where):
    add = [h.CommitOperationAdd("x.safetensors", b"x")]
    return api.create_commit(repo, add, commit_message="m", **where)
print(json.dumps([
    status(commit),
    status(api.create_repo, "org/other"),
    status(api.create_repo, "guest/own"),
    status(api.create_repo, "own2", private=True),
    status(commit, "org/none"),
    status(commit, revision="none"),
    status(commit, create_pr=True),
    status(commit, token=False),
]))
"""
    found = ask(run_python, code, token="hf_guest")
    assert isinstance(found, list)
    assert [one[0] for one in found] == [403, 403, 0, 0, 404, 403, 0, 401]
    assert set(hub.repos) == {NAME, "guest/own", "guest/own2"}
    assert hub.head(NAME) == model
    assert hub.files(NAME, "refs/pr/1")["x.safetensors"] == b"x"
