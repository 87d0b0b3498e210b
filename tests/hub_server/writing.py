"""What a client may change: repositories, branches, tags, pull requests, files."""

import base64
import fnmatch
import json
from typing import TYPE_CHECKING, Any

from hub_server.blobs import Blob
from hub_server.reading import date, find_commit, find_repo, find_user
from hub_server.reply import HubError, Reply, as_json
from hub_server.repos import Commit, File, Repo, User

if TYPE_CHECKING:
    from hub_server.wire import Call


def known_user(call: "Call") -> User:
    user = find_user(call)
    if user is None:
        raise HubError(401, "Invalid username or password.")
    return user


def writable(call: "Call", pull: bool = False) -> tuple[Repo, User]:
    """The repository, if the request may write to it; a pull request may come from every user."""
    repo, user = find_repo(call), known_user(call)
    if not pull and not user.may_write(repo.id):
        text = "pass `create_pr=1` as a query parameter to create a Pull Request"
        raise HubError(403, f"Forbidden: you have no write access to {repo.id}; {text}")
    return repo, user


def wants_pull(call: "Call") -> bool:
    return call.query.get("create_pr", "").lower() in ("1", "true")


def create_repo(call: "Call") -> Reply:
    user, asked = known_user(call), json.loads(call.body())
    name = f"{asked.get('organization') or user.name}/{asked['name']}"
    if asked.get("type", "model") not in (None, "model"):
        raise HubError(400, "this server has models only")
    if not user.may_write(name):
        namespace = name.split("/", maxsplit=1)[0]
        raise HubError(403, f"You have no right to create a model under the namespace {namespace}")
    url = f"{call.hub.endpoint}/{name}"
    if name in call.hub.repos:
        return as_json({"error": "You already created this model repo", "url": url}, 409)
    # two generations of clients: "private" and "visibility"
    private = bool(asked.get("private")) or asked.get("visibility") == "private"
    attributes = "".join(f"*{suffix} filter=lfs -text\n" for suffix in call.hub.lfs.suffixes)
    call.hub.add_repo(name, {".gitattributes": attributes}, private=private, title="initial commit")
    user.write.add(name)
    return as_json({"url": url, "name": name, "id": call.hub.repos[name].branches["main"][:24]})


def delete_repo(call: "Call") -> Reply:
    user, asked = known_user(call), json.loads(call.body())
    name = f"{asked.get('organization') or user.name}/{asked['name']}"
    if name not in call.hub.repos:
        raise HubError(404, "Repository not found", "RepoNotFound")
    if not user.may_write(name):
        raise HubError(403, f"Forbidden: you have no write access to {name}")
    del call.hub.repos[name]
    return Reply()


def settings(call: "Call") -> Reply:
    repo, _ = writable(call)
    asked = json.loads(call.body())
    if "private" in asked or "visibility" in asked:
        repo.private = bool(asked.get("private")) or asked.get("visibility") == "private"
    repo.gated = asked.get("gated", repo.gated)
    return as_json({"private": repo.private, "gated": repo.gated})


def validate_yaml(call: "Call") -> Reply:
    return as_json({"errors": [], "warnings": []})


def preupload(call: "Call") -> Reply:
    repo, _ = writable(call, wants_pull(call))
    commit = find_commit(repo, call.route.rev)
    asked = json.loads(call.body())
    ignored = [line.strip() for line in asked.get("gitIgnore", "").splitlines()]
    ignored = [line for line in ignored if line and not line.startswith("#")]
    files = []
    for one in asked["files"]:
        path = one["path"]
        file = commit.files.get(path)
        found = {
            "path": path,
            "uploadMode": "lfs" if call.hub.lfs(path, one["size"]) else "regular",
            "shouldIgnore": any(fnmatch.fnmatch(path, line) for line in ignored),
        }
        # by this the client leaves out files that would not change
        files.append(found | ({"oid": file.etag} if file else {}))
    return as_json({"files": files, "commitOid": commit.id})


def lfs_batch(call: "Call") -> Reply:
    repo = find_repo(call)
    # who opens a pull request sends files as well
    known_user(call)
    asked = json.loads(call.body())["objects"]
    objects = [call.hub.uploads.action(repo, one["oid"], one["size"]) for one in asked]
    parted = any(one["size"] > call.hub.uploads.part_size for one in asked)
    return as_json({"transfer": "multipart" if parted else "basic", "objects": objects})


def lfs_complete(call: "Call") -> Reply:
    asked = json.loads(call.body())
    call.hub.uploads.complete(call.query.get("X-Signature"), asked["oid"], asked["parts"])
    return as_json({"success": True})


def lfs_verify(call: "Call") -> Reply:
    repo, asked = find_repo(call), json.loads(call.body())
    known_user(call)
    blob = repo.uploaded.get(asked["oid"])
    if blob is None or blob.size != asked["size"]:
        raise HubError(404, "The file was not uploaded, or has another size")
    return as_json({"success": True})


def changes_of(repo: Repo, parent: Commit, lines: list[dict[str, Any]]) -> dict[str, File | None]:
    changes: dict[str, File | None] = {}
    for line in lines:
        kind, value = line["key"], line["value"]
        if kind == "file":
            data = value["content"]
            data = base64.b64decode(data) if value.get("encoding") == "base64" else data.encode()
            changes[value["path"]] = File(Blob(data), lfs=False)
        elif kind == "lfsFile":
            blob = repo.uploaded.get(value["oid"])
            if blob is None:
                raise HubError(400, f"LFS file {value['oid']} of {value['path']} was not uploaded")
            changes[value["path"]] = File(blob, lfs=True)
        elif kind in ("deletedFile", "deletedFolder"):
            path = value["path"]
            prefix = path.rstrip("/") + "/"
            gone = [one for one in parent.files if one == path or one.startswith(prefix)]
            if not gone:
                raise HubError(404, f"{path} is not in the repository", "EntryNotFound")
            changes |= dict.fromkeys(gone)
        elif kind != "header":
            raise HubError(400, f"unknown operation {kind!r}")
    return changes


def commit(call: "Call") -> Reply:
    pull = wants_pull(call)
    repo, user = writable(call, pull)
    lines = [json.loads(line) for line in call.body().splitlines() if line.strip()]
    header = next((line["value"] for line in lines if line["key"] == "header"), None)
    if not header or not header.get("summary"):
        raise HubError(400, "a commit needs a summary")
    with repo.lock:
        parent = find_commit(repo, call.route.rev)
        if not pull and not repo.is_movable(call.route.rev):
            raise HubError(400, f"{call.route.rev} is no branch")
        if header.get("parentCommit") not in (None, parent.id):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        changes, message = changes_of(repo, parent, lines), header.get("description") or ""
        new = repo.commit(parent, changes, header["summary"], message, user.name)
        answer = {"success": True, "commitUrl": f"{call.hub.endpoint}/{repo.id}/commit/{new.id}"}
        answer |= {"commitOid": new.id, "hookOutput": ""}
        if pull:
            number = repo.open_pull(new.id, header["summary"])
            answer["pullRequestUrl"] = f"{call.hub.endpoint}/{repo.id}/discussions/{number}"
        else:
            repo.set_ref(call.route.rev, new.id)
    return as_json(answer)


def create_branch(call: "Call") -> Reply:
    repo, _ = writable(call)
    name, asked = call.route.rev, json.loads(call.body() or b"{}")
    with repo.lock:
        if name in repo.branches:
            raise HubError(409, f"Reference already exists: refs/heads/{name}")
        repo.branches[name] = find_commit(repo, asked.get("startingPoint") or "main").id
    return as_json({})


def delete_branch(call: "Call") -> Reply:
    repo, _ = writable(call)
    if call.route.rev == "main":
        raise HubError(403, "Cannot delete main")
    if repo.branches.pop(call.route.rev, None) is None:
        raise HubError(404, f"Invalid rev id: {call.route.rev}", "RevisionNotFound")
    return as_json({})


def create_tag(call: "Call") -> Reply:
    repo, _ = writable(call)
    name = json.loads(call.body())["tag"]
    with repo.lock:
        if name in repo.tags:
            raise HubError(409, f"Tag reference exists already: {name}")
        repo.tags[name] = find_commit(repo, call.route.rev).id
    return as_json({})


def delete_tag(call: "Call") -> Reply:
    repo, _ = writable(call)
    if repo.tags.pop(call.route.rev, None) is None:
        raise HubError(404, f"Invalid rev id: {call.route.rev}", "RevisionNotFound")
    return as_json({})


def create_discussion(call: "Call") -> Reply:
    repo, asked = find_repo(call), json.loads(call.body())
    known_user(call)
    if not asked.get("pullRequest"):
        raise HubError(400, "this server has pull requests only")
    number = repo.open_pull(find_commit(repo, "main").id, asked["title"])
    return as_json({"num": number, "url": f"{call.hub.endpoint}/{repo.id}/discussions/{number}"})


def discussion(call: "Call") -> Reply:
    repo, number = find_repo(call), call.route.number
    if number not in repo.pulls:
        raise HubError(404, "Discussion not found")
    one = repo.commits[repo.pulls[number]]
    return as_json(
        {
            "title": repo.titles[number],
            "num": number,
            "author": {"name": one.author},
            "createdAt": date(one),
            "status": "draft",
            "repo": {"name": repo.id, "type": "model"},
            "isPullRequest": True,
            "events": [],
            "changes": {"base": "refs/heads/main"},
            "filesWithConflicts": [],
            "diff": "",
        }
    )


def merge(call: "Call") -> Reply:
    repo, _ = writable(call)
    with repo.lock:
        main, pull = find_commit(repo, "main"), find_commit(repo, f"refs/pr/{call.route.number}")
        if main not in repo.history(pull):
            raise HubError(409, "main has moved since: this server merges by fast-forward only")
        repo.branches["main"] = pull.id
    return as_json({})


ACTIONS = {
    "create-repo": create_repo,
    "delete-repo": delete_repo,
    "settings": settings,
    "validate-yaml": validate_yaml,
    "preupload": preupload,
    "lfs-batch": lfs_batch,
    "lfs-complete": lfs_complete,
    "lfs-verify": lfs_verify,
    "commit": commit,
    "create-branch": create_branch,
    "delete-branch": delete_branch,
    "create-tag": create_tag,
    "delete-tag": delete_tag,
    "create-discussion": create_discussion,
    "discussion": discussion,
    "merge": merge,
}
