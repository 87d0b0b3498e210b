"""Which request an address is."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

REPO = r"(?P<repo>[^/]+/[^/]+)"
# A pull request's revision may come with its slashes unquoted.
REV = r"(?P<rev>refs/(?:pr|convert|heads)/[^/]+|[^/]+)"
API = f"/api/models/{REPO}"

HUB = [
    ("GET", f"{API}", "info"),
    ("GET", f"{API}/revision/(?P<rev>.+)", "info"),
    ("GET", f"{API}/tree/{REV}(?:/(?P<path>.+))?", "tree"),
    ("GET", f"{API}/refs", "refs"),
    ("GET", f"{API}/commits/(?P<rev>.+)", "commits"),
    ("POST", f"{API}/paths-info/(?P<rev>.+)", "paths-info"),
    ("GET", f"{API}/auth-check", "auth-check"),
    ("GET", "/api/whoami-v2", "whoami"),
    ("HEAD GET", f"/api/resolve-cache/models/{REPO}/(?P<rev>[^/]+)/(?P<path>.+)", "content"),
    ("HEAD GET", f"/{REPO}/resolve/{REV}/(?P<path>.+)", "resolve"),
    ("POST", "/api/repos/create", "create-repo"),
    ("DELETE", "/api/repos/delete", "delete-repo"),
    ("PUT", f"{API}/settings", "settings"),
    ("POST", "/api/validate-yaml", "validate-yaml"),
    ("POST", f"{API}/preupload/(?P<rev>.+)", "preupload"),
    ("POST", f"{API}/commit/(?P<rev>.+)", "commit"),
    ("POST", f"{API}/branch/(?P<rev>.+)", "create-branch"),
    ("DELETE", f"{API}/branch/(?P<rev>.+)", "delete-branch"),
    ("POST", f"{API}/tag/(?P<rev>.+)", "create-tag"),
    ("DELETE", f"{API}/tag/(?P<rev>.+)", "delete-tag"),
    ("POST", f"{API}/discussions", "create-discussion"),
    ("GET", rf"{API}/discussions/(?P<number>\d+)", "discussion"),
    ("POST", rf"{API}/discussions/(?P<number>\d+)/merge", "merge"),
    ("POST", f"/{REPO}\\.git/info/lfs/objects/batch", "lfs-batch"),
    ("POST", f"/{REPO}\\.git/info/lfs/objects/verify", "lfs-verify"),
    ("POST", "/api/complete_multipart", "lfs-complete"),
]
STORAGE = [
    ("HEAD GET", f"/{REPO}/(?P<oid>[0-9a-f]+)", "content"),
    ("PUT", f"/{REPO}/(?P<oid>[0-9a-f]+)", "upload"),
]


def _compiled(table: list[tuple[str, str, str]]) -> list[tuple[list[str], re.Pattern[str], str]]:
    return [(methods.split(), re.compile(pattern), kind) for methods, pattern, kind in table]


_TABLES = {"hub": _compiled(HUB), "storage": _compiled(STORAGE)}


@dataclass(frozen=True)
class Route:
    kind: str = "unknown"
    repo: str = ""
    rev: str = "main"
    path: str = ""
    """A path in the repository."""
    number: int = 0
    oid: str = ""


def find(host: str, method: str, path: str) -> Route:
    """The route of a path that is still quoted: a revision may have slashes of its own."""
    for methods, pattern, kind in _TABLES[host]:
        found = pattern.fullmatch(path) if method in methods else None
        if found:
            given = {name: value for name, value in found.groupdict().items() if value is not None}
            parts = {name: unquote(value) for name, value in given.items()}
            number = int(parts.pop("number", "0"))
            return Route(kind=kind, number=number, **parts)
    return Route()
