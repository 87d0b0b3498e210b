"""What a client may read: information, trees, references, files."""

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode

from hub_server.reply import HubError, Reply, as_json
from hub_server.repos import Commit, File, Repo, User

if TYPE_CHECKING:
    from hub_server.wire import Call


def find_user(call: "Call") -> User | None:
    token = call.request.token
    if token is None:
        return None
    if token not in call.hub.users:
        raise HubError(401, "Invalid credentials in Authorization header")
    return call.hub.users[token]


def find_repo(call: "Call", gate: bool = False) -> Repo:
    """The repository, if the request may know of it, and with `gate`, if it may have the files."""
    user = find_user(call)
    repo = call.hub.repos.get(call.route.repo)
    if repo is None or (repo.private and not (user and user.may_read(repo.id))):
        if user is None:
            # whether it is missing or private is not told
            headers = {"WWW-Authenticate": 'Bearer realm="Authentication required"'}
            raise HubError(401, "Invalid username or password.", "RepoNotFound", headers)
        raise HubError(404, "Repository not found", "RepoNotFound")
    if gate and repo.gated and not (user and user.may_read(repo.id)):
        text = f"Access to model {repo.id} is restricted"
        if user is None:
            text += ". You must have access to it and be authenticated to access it. Please log in."
            raise HubError(401, text, "GatedRepo")
        text += " and you are not in the authorized list."
        text += f" Visit {call.hub.endpoint}/{repo.id} to ask for access."
        raise HubError(403, text, "GatedRepo")
    return repo


def find_commit(repo: Repo, revision: str) -> Commit:
    commit = repo.resolve(revision)
    if commit is None:
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def no_entry(commit: Commit, path: str) -> HubError:
    return HubError(404, "Entry not found", "EntryNotFound", {"X-Repo-Commit": commit.id})


def date(commit: Commit) -> str:
    return commit.date.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def whoami(call: "Call") -> Reply:
    user = find_user(call)
    if user is None:
        raise HubError(401, "Invalid username or password.")
    role = {"displayName": "test", "role": "write" if user.everything else "read"}
    found = {"type": "user", "id": user.name, "name": user.name, "fullname": user.name, "orgs": []}
    return as_json({**found, "auth": {"type": "access_token", "accessToken": role}})


def auth_check(call: "Call") -> Reply:
    find_repo(call, gate=True)
    return Reply(headers={"Content-Type": "text/plain"})


def info(call: "Call") -> Reply:
    repo = find_repo(call)
    commit = find_commit(repo, call.route.rev)
    siblings = [sibling(path, file, "blobs" in call.query) for path, file in commit.files.items()]
    found: dict[str, Any] = {
        "_id": commit.id[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.split("/")[0],
        "sha": commit.id,
        "lastModified": date(commit),
        "createdAt": date(repo.history(commit)[-1]),
        "private": repo.private,
        "gated": "manual" if repo.gated is True else repo.gated,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "siblings": siblings,
        "usedStorage": sum(file.blob.size for file in commit.files.values() if file.lfs),
    }
    if "config.json" in commit.files:
        try:
            config = json.loads(commit.files["config.json"].blob.read())
            known = ("architectures", "model_type", "auto_map")
            found["config"] = {key: config[key] for key in known if key in config}
        except (ValueError, TypeError):
            pass
    return as_json(found)


def sibling(path: str, file: File, blobs: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": path}
    if blobs:
        found |= {"size": file.blob.size, "blobId": file.oid}
        if file.lfs:
            found["lfs"] = {
                "sha256": file.blob.sha256,
                "size": file.blob.size,
                "pointerSize": len(file.pointer),
            }
    return found


def entry(commit: Commit, path: str, expand: bool = False) -> dict[str, Any]:
    """A file or folder as tree and paths-info show it."""
    if path in commit.files:
        file = commit.files[path]
        found: dict[str, Any] = {"type": "file", "oid": file.oid, "size": file.blob.size, "path": path}
        if file.lfs:
            size = len(file.pointer)
            found["lfs"] = {"oid": file.blob.sha256, "size": file.blob.size, "pointerSize": size}
    else:
        found = {"type": "directory", "oid": commit.trees[path], "size": 0, "path": path}
    if expand:
        found["lastCommit"] = {"id": commit.id, "title": commit.title, "date": date(commit)}
    return found


def page(call: "Call", items: Sequence[Any]) -> tuple[Sequence[Any], dict[str, str]]:
    """The part that the query's cursor asks for, and the Link header to the next one."""
    limit = min(int(call.query.get("limit", call.hub.page_size)), call.hub.page_size)
    cursor = call.query.get("cursor")
    start = int(base64.urlsafe_b64decode(cursor)) if cursor else 0
    headers = {}
    if start + limit < len(items):
        query = {**call.query, "cursor": base64.urlsafe_b64encode(b"%d" % (start + limit)).decode()}
        link = f"{call.hub.endpoint}{call.request.path}?{urlencode(query)}"
        headers["Link"] = f'<{link}>; rel="next"'
    return items[start : start + limit], headers


def tree(call: "Call") -> Reply:
    repo = find_repo(call)
    commit = find_commit(repo, call.route.rev)
    folder = call.route.path.strip("/")
    if folder not in commit.trees:
        raise no_entry(commit, folder)
    recursive = call.query.get("recursive", "").lower() in ("true", "1")
    expand = call.query.get("expand", "").lower() in ("true", "1")
    prefix = folder + "/" if folder else ""
    paths = [path for path in (*commit.trees, *commit.files) if path and path.startswith(prefix)]
    if not recursive:
        paths = [path for path in paths if "/" not in path.removeprefix(prefix)]
    some, headers = page(call, sorted(paths))
    return as_json([entry(commit, path, expand) for path in some], headers=headers)


def paths_info(call: "Call") -> Reply:
    repo = find_repo(call)
    commit = find_commit(repo, call.route.rev)
    body = call.body().decode()
    form = json.loads(body) if body.startswith("{") else parse_qs(body)
    paths = form["paths"] if isinstance(form["paths"], list) else [form["paths"]]
    known = [path for path in paths if path in commit.files or (path and path in commit.trees)]
    return as_json([entry(commit, path) for path in known])


def refs(call: "Call") -> Reply:
    repo = find_repo(call)

    def listed(found: dict[str, str], prefix: str) -> list[dict[str, str]]:
        pairs = found.items()
        return [{"name": name, "ref": f"{prefix}/{name}", "targetCommit": oid} for name, oid in pairs]

    with repo.lock:
        answer = {
            "branches": listed(repo.branches, "refs/heads"),
            "converts": [],
            "tags": listed(repo.tags, "refs/tags"),
        }
        if "include_prs" in call.query:
            answer["pullRequests"] = listed({str(n): oid for n, oid in repo.pulls.items()}, "refs/pr")
    return as_json(answer)


def commits(call: "Call") -> Reply:
    repo = find_repo(call)
    some, headers = page(call, repo.history(find_commit(repo, call.route.rev)))
    found = [
        {
            "id": one.id,
            "title": one.title,
            "message": one.message,
            "authors": [{"user": one.author}],
            "date": date(one),
        }
        for one in some
    ]
    return as_json(found, headers=headers)


def disposition(path: str) -> str:
    name = path.rpartition("/")[2]
    return f"inline; filename*=UTF-8''{quote(name)}; filename=\"{quote(name)}\";"


def resolve(call: "Call") -> Reply:
    repo = find_repo(call, gate=True)
    commit = find_commit(repo, call.route.rev)
    file = commit.files.get(call.route.path)
    if file is None:
        raise no_entry(commit, call.route.path)
    if call.hub.resolve_cache and not file.lfs:
        # The Hub sends regular files from an address that names the commit, on the same host.
        target = f"/api/resolve-cache/models/{repo.id}/{commit.id}/{quote(call.route.path)}"
        target += f"?{quote(call.request.path, safe='')}=&etag={quote(chr(34) + file.etag + chr(34))}"
        return Reply(307, {"Location": target, **linked(commit, file)})
    if file.lfs:
        target = call.hub.signed(repo, call.route.path, file)
        return Reply(302, {"Location": target, **linked(commit, file)})
    return whole(commit, call.route.path, file)


def linked(commit: Commit, file: File) -> dict[str, str]:
    return {
        "X-Repo-Commit": commit.id,
        "Accept-Ranges": "bytes",
        "X-Linked-Size": str(file.blob.size),
        "X-Linked-Etag": f'"{file.etag}"',
    }


def whole(commit: Commit, path: str, file: File) -> Reply:
    headers = {
        "Content-Type": "application/octet-stream" if file.lfs else "text/plain; charset=utf-8",
        "ETag": f'"{file.etag}"',
        "X-Repo-Commit": commit.id,
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(path),
    }
    return Reply(200, headers, file.blob, ranged=True)


def content(call: "Call") -> Reply:
    repo = find_repo(call, gate=True)
    commit = find_commit(repo, call.route.rev)
    file = commit.files.get(call.route.path)
    if file is None:
        raise no_entry(commit, call.route.path)
    return whole(commit, call.route.path, file)


ACTIONS = {
    "info": info,
    "tree": tree,
    "refs": refs,
    "commits": commits,
    "paths-info": paths_info,
    "auth-check": auth_check,
    "whoami": whoami,
    "resolve": resolve,
    "content": content,
}
