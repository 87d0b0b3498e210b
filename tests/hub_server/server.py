"""The server as tests hold it."""

import http.client
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from hub_server import reading, storage, writing
from hub_server.faults import Fault, Rule, Rules
from hub_server.log import Log, Request, Totals
from hub_server.reply import HubError, Reply
from hub_server.repos import Contents, File, LfsRule, Repo, User
from hub_server.uploads import Grant, Uploads
from hub_server.wire import Call, Host

# a part of what the Hub's own .gitattributes has
LFS_SUFFIXES = (".safetensors", ".bin", ".onnx", ".model", ".pt", ".pth", ".gguf", ".npz")
LFS_SIZE = 10 * 1024 * 1024


class HubServer:
    """A Hugging Face Hub on 127.0.0.1, with a second host (another port) for large files.

    `token` may do everything; `add_user` gives tokens that may do less. Files are given as bytes, text
    or paths. Nothing is on offer for Xet: a client that has hf_xet uploads with HF_HUB_DISABLE_XET=1.
    """

    def __init__(
        self,
        lfs_suffixes: Iterable[str] = LFS_SUFFIXES,
        lfs_size: int = LFS_SIZE,
        page_size: int = 1000,
        part_size: int = 8 * 1024 * 1024,
        resolve_cache: bool = True,
    ) -> None:
        self.token = "hf_owner"
        self.users = {self.token: User("owner", self.token, everything=True)}
        self.repos: dict[str, Repo] = {}
        self.lfs = LfsRule(tuple(lfs_suffixes), lfs_size)
        self.page_size, self.resolve_cache = page_size, resolve_cache
        self.log, self.rules = Log(), Rules()
        self.errors: list[Exception] = []
        """Failures of the server itself; a test may look that there are none."""
        self._hosts = {name: Host(self, name) for name in ("hub", "storage")}
        self.endpoint, self.storage_url = (self._hosts[name].url for name in ("hub", "storage"))
        self.uploads = Uploads(self.endpoint, self.storage_url, part_size)
        hub: dict[str, Callable[[Call], Reply]] = {**reading.ACTIONS, **writing.ACTIONS}
        self._actions: dict[str, dict[str, Callable[[Call], Reply]]] = {
            "hub": hub,
            "storage": {**storage.ACTIONS},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for host in self._hosts.values():
            host.close()

    # -- contents

    def add_user(
        self, name: str, token: str, read: Iterable[str] = (), write: Iterable[str] = ()
    ) -> User:
        """A token that opens the named private or gated repositories, and its own namespace."""
        self.users[token] = User(name, token, set(read), set(write))
        return self.users[token]

    def add_repo(
        self,
        name: str,
        files: Mapping[str, Contents] | None = None,
        folder: Path | None = None,
        private: bool = False,
        gated: bool | str = False,
        token: str | None = None,
        title: str = "initial commit",
    ) -> str:
        """A repository with one commit, whose id is returned; `token` may read it in any case."""
        contents: dict[str, Contents] = {}
        if folder is not None:
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            contents |= {path.relative_to(folder).as_posix(): path for path in paths}
        contents |= files or {}
        repo = self.repos[name] = Repo(name, private, gated)
        repo.branches["main"] = repo.commit(None, self.lfs.files(contents.items()), title).id
        if token is not None:
            user = self.users.get(token) or self.add_user(f"user-{len(self.users)}", token)
            user.read.add(name)
        return repo.branches["main"]

    def commit(
        self, name: str, changes: Mapping[str, Contents], branch: str = "main", title: str = "Update"
    ) -> str:
        """Changes files (None deletes) and moves the branch to the new commit, whose id is returned."""
        repo = self.repos[name]
        with repo.lock:
            new = repo.commit(repo.resolve(branch), self.lfs.files(changes.items()), title)
            repo.set_ref(branch, new.id)
        return new.id

    def file(self, name: str, path: str, revision: str = "main") -> File:
        """A file with its `oid`, `etag`, `lfs` and `blob`."""
        commit = self.repos[name].resolve(revision)
        if commit is None:
            raise KeyError(revision)
        return commit.files[path]

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        commit = self.repos[name].resolve(revision)
        if commit is None:
            raise KeyError(revision)
        return {path: file.blob.read() for path, file in commit.files.items()}

    def head(self, name: str, revision: str = "main") -> str:
        """The id of the commit at the end of a branch."""
        commit = self.repos[name].resolve(revision)
        if commit is None:
            raise KeyError(revision)
        return commit.id

    # -- statistics

    @property
    def requests(self) -> list[Request]:
        return self.log.requests()

    @property
    def totals(self) -> Totals:
        return self.log.totals()

    @property
    def leaks(self) -> list[Request]:
        """Requests that brought a token to the storage host, which must never see one."""
        return [request for request in self.log.requests("storage") if request.authorized]

    def reset(self) -> None:
        """Forgets the requests; the rules of misbehaviour stay."""
        self.log.reset()

    def expire_links(self) -> None:
        """Signed addresses that were given out are refused with 403 from now on."""
        self.grants.clear()

    def drop_connections(self) -> None:
        for host in self._hosts.values():
            host.drop_connections()

    # -- misbehaviour

    def misbehave(
        self,
        fault: Fault,
        *,
        times: int | None = 1,
        skip: int = 0,
        host: str | None = None,
        method: str | None = None,
        path: str | None = None,
        kind: str | None = None,
        file: str | None = None,
        ranged: bool | str | None = None,
        when: Callable[[Request], bool] | None = None,
    ) -> Rule:
        """The next `times` (None: all) matching requests, after `skip` of them, meet the fault.

        `path` is a regular expression searched for in the request's path; `kind` and `file` are as in
        Request; `ranged` is whether there is a Range header, or its exact text.
        """
        return self.rules.add(Rule(fault, times, skip, host, method, path, kind, file, ranged, when))

    def behave(self) -> None:
        """Takes back all misbehaviour."""
        self.rules.clear()

    # -- for the rest of the package, and for looks at the wire

    def signed(self, repo: Repo, path: str, file: File) -> str:
        return self.uploads.address(Grant(repo, file.blob.sha256, path, file.blob))

    @property
    def grants(self) -> dict[str, Grant]:
        return self.uploads.grants

    def complete(self, call: Call) -> None:
        """Adds to the record of a request for storage which file it is about."""
        grant = self.grants.get(call.query.get("X-Signature", ""))
        if grant is not None:
            call.request.repo = grant.repo.id
            call.request.file = grant.path or call.request.file

    def act(self, call: Call) -> Reply:
        action = self._actions[call.request.host].get(call.route.kind)
        if action is None:
            raise HubError(404, f"Cannot {call.request.method} {call.request.path}")
        return action(call)

    def fetch(
        self, url: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """One plain request, following nothing; `_` in names of headers stands for `-`."""
        parts = urlsplit(url if "://" in url else self.endpoint + url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=10)
        try:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, body, named)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()
