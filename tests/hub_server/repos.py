"""Repositories with branches, tags, pull requests and all their commits, and who may see them."""

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from hub_server.blobs import Blob

Contents = bytes | str | Path | Blob | None


def to_blob(contents: bytes | str | Path | Blob) -> Blob:
    if isinstance(contents, Blob):
        return contents
    if isinstance(contents, Path):
        return Blob.of_path(contents)
    return Blob(contents.encode() if isinstance(contents, str) else contents)


def git_object(kind: str, data: bytes) -> str:
    return hashlib.sha1(
        b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False
    ).hexdigest()


@dataclass(frozen=True)
class File:
    blob: Blob
    lfs: bool

    @cached_property
    def pointer(self) -> bytes:
        # git-lfs begins with the address of its specification; no client reads this text
        return f"version 1\noid sha256:{self.blob.sha256}\nsize {self.blob.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        return git_object("blob", self.pointer) if self.lfs else self.blob.git_id

    @property
    def etag(self) -> str:
        return self.blob.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    files: Mapping[str, File]
    parent: str | None
    title: str
    message: str
    author: str
    date: datetime

    @cached_property
    def trees(self) -> dict[str, str]:
        """Each folder of the commit ("" is the root) with its id as a git tree."""
        children: dict[str, dict[str, str]] = {"": {}}
        for path, file in self.files.items():
            folder, _, name = path.rpartition("/")
            children.setdefault(folder, {})[name] = file.oid
            while folder:
                folder = folder.rpartition("/")[0]
                children.setdefault(folder, {})
        found: dict[str, str] = {}
        for folder in sorted(children, key=lambda folder: -folder.count("/") - bool(folder)):
            entries = [(name, f"100644 {name}", oid) for name, oid in children[folder].items()]
            for below, oid in found.items():
                parent, _, name = below.rpartition("/")
                if parent == folder:
                    entries.append((name + "/", f"40000 {name}", oid))
            data = b"".join(
                head.encode() + b"\0" + bytes.fromhex(oid) for _, head, oid in sorted(entries)
            )
            found[folder] = git_object("tree", data)
        return found

    @cached_property
    def id(self) -> str:
        who = f"{self.author} <{self.author}@localhost> {int(self.date.timestamp())} +0000"
        lines = [f"tree {self.trees['']}", *([f"parent {self.parent}"] if self.parent else [])]
        lines += [f"author {who}", f"committer {who}", "", self.title, "", self.message]
        return git_object("commit", "\n".join(lines).encode())


@dataclass
class Repo:
    id: str
    private: bool = False
    gated: bool | str = False
    author: str = "owner"
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, str] = field(default_factory=dict)
    titles: dict[int, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    uploaded: dict[str, Blob] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def resolve(self, revision: str) -> Commit | None:
        """The commit that a branch, tag, pull request or commit id (7 digits or more) stands for."""
        with self.lock:
            oid = self.branches.get(revision.removeprefix("refs/heads/")) or self.tags.get(revision)
            if oid is None and revision.startswith("refs/pr/"):
                number = revision.removeprefix("refs/pr/")
                oid = self.pulls.get(int(number)) if number.isdigit() else None
            if oid is None and len(revision) >= 7:
                oid = next((oid for oid in self.commits if oid.startswith(revision)), None)
            return self.commits[oid] if oid else None

    def set_ref(self, revision: str, oid: str) -> None:
        if revision.startswith("refs/pr/"):
            self.pulls[int(revision.removeprefix("refs/pr/"))] = oid
        else:
            self.branches[revision.removeprefix("refs/heads/")] = oid

    def is_movable(self, revision: str) -> bool:
        name = revision.removeprefix("refs/heads/")
        return name in self.branches or (
            revision.startswith("refs/pr/") and bool(self.resolve(revision))
        )

    def open_pull(self, oid: str, title: str) -> int:
        with self.lock:
            number = len(self.pulls) + 1
            self.pulls[number], self.titles[number] = oid, title
            return number

    def commit(
        self,
        parent: Commit | None,
        changes: Mapping[str, File | None],
        title: str = "Update",
        message: str = "",
        author: str = "owner",
    ) -> Commit:
        """Adds a commit; no reference points to it yet."""
        with self.lock:
            files = dict(parent.files) if parent else {}
            for path, file in changes.items():
                if file is None:
                    files.pop(path, None)
                else:
                    files[path] = file
                    if file.lfs:
                        self.uploaded[file.blob.sha256] = file.blob
            # A date that is counted and not read from a clock: the same commits get the same ids.
            date = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=len(self.commits))
            files = dict(sorted(files.items()))
            new = Commit(files, parent.id if parent else None, title, message, author, date)
            self.commits[new.id] = new
            return new

    def history(self, commit: Commit) -> list[Commit]:
        found = [commit]
        while found[-1].parent:
            found.append(self.commits[found[-1].parent])
        return found


@dataclass
class User:
    name: str
    token: str
    read: set[str] = field(default_factory=set)
    write: set[str] = field(default_factory=set)
    everything: bool = False

    def may_read(self, repo: str) -> bool:
        return self.may_write(repo) or repo in self.read

    def may_write(self, repo: str) -> bool:
        return self.everything or repo in self.write or repo.split("/", maxsplit=1)[0] == self.name


@dataclass
class LfsRule:
    """Which files go to large file storage: by the end of their name, or by size."""

    suffixes: tuple[str, ...]
    size: int

    def __call__(self, path: str, size: int) -> bool:
        # The Hub's client sends empty files as regular ones, whatever it is told.
        return size > 0 and (path.endswith(self.suffixes) or size >= self.size)

    def files(self, changes: Iterable[tuple[str, Contents]]) -> dict[str, File | None]:
        found: dict[str, File | None] = {}
        for path, contents in changes:
            blob = None if contents is None else to_blob(contents)
            found[path] = None if blob is None else File(blob, self(path, blob.size))
        return found
