"""A Hub repository as a source: names, sizes and byte ranges, pinned to one commit."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from surgeon.checkpoint.source import TEMPLATES, FolderSource, Source
from surgeon.errors import SurgeonError
from surgeon.hub.http import Remote, fetch, read

_PREFIX = 64 << 10
"""Bytes that the first look into a file fetches: most headers are shorter."""

_OTHER_FORMATS = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack", "original/*"]


@dataclass(frozen=True)
class HubSource:
    """A repository at a commit. Nothing is downloaded but what is read."""

    repo: str
    commit: str
    sizes: dict[str, int]
    _prefixes: dict[str, bytes] = field(default_factory=dict, repr=False)
    _remotes: dict[str, Remote] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return self.repo

    @property
    def revision(self) -> str | None:
        return self.commit

    @property
    def identity(self) -> str | None:
        """What these very bytes are known by in a later run."""
        return f"{self.repo}@{self.commit}"

    @property
    def folder(self) -> Path | None:
        return None

    def files(self) -> dict[str, int]:
        return {
            name: size
            for name, size in self.sizes.items()
            if "/" not in name or name.startswith(f"{TEMPLATES}/")
        }

    def where(self, file: str) -> str:
        return f"{self.repo}@{self.commit[:8]}/{file}"

    def read(self, file: str, offset: int = 0, length: int | None = None) -> bytes:
        size = self.sizes[file]
        end = size if length is None else min(size, offset + length)
        if offset >= end:
            return b""
        if file not in self._prefixes:
            self._prefixes[file] = read(
                self.remote(file), 0, min(size, max(_PREFIX, end if not offset else 0))
            )
        prefix = self._prefixes[file]
        if end <= len(prefix):
            return prefix[offset:end]
        start = max(offset, len(prefix))
        return prefix[offset:start] + read(self.remote(file), start, end)

    def fetch(
        self,
        file: str,
        start: int,
        end: int,
        take: Callable[[int, bytes], None],
        sleep: Callable[[float], None],
    ) -> None:
        fetch(self.remote(file), start, end, take, sleep)

    def remote(self, file: str) -> Remote:
        """A file's address, the same for all who read it, so that all notice if it changes."""
        if file not in self._remotes:
            from huggingface_hub import hf_hub_url

            url = hf_hub_url(self.repo, file, revision=self.commit)
            self._remotes[file] = Remote(url, self.where(file), self.sizes[file], self._headers)
        return self._remotes[file]

    @cached_property
    def _headers(self) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers

        from surgeon.version import __version__

        return dict(build_hf_headers(library_name="surgeon", library_version=__version__))

    def download(self) -> Path:
        import huggingface_hub

        try:
            return Path(
                huggingface_hub.snapshot_download(
                    self.repo, revision=self.commit, ignore_patterns=_OTHER_FORMATS
                )
            )
        except Exception as error:  # of many kinds, all about the network or the disk
            raise refused(self.repo, error) from None


def open_repository(repo: str, revision: str | None) -> Source:
    """The repository at the commit that ``revision`` (main by default) is now.

    Where all of its weights are in the Hub cache already, or there is no network and the cache has a
    snapshot, that folder. Raises SurgeonError if there is no such model, or it may not be read.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise SurgeonError(
            f"{repo}: no such folder; for a model of the Hub run: pip install huggingface-hub"
        ) from None
    try:
        info = huggingface_hub.HfApi().model_info(repo, revision=revision, files_metadata=True)
    except Exception as error:
        cached = _cached_snapshot(repo, revision) if _is_offline(error) else None
        if cached is not None:
            return FolderSource(cached)
        raise refused(repo, error) from None
    sizes = {s.rfilename: int(s.size or 0) for s in info.siblings or []}
    source = HubSource(repo, str(info.sha), sizes)
    cached = _cached_snapshot(repo, source.commit)
    if cached is not None and all(
        os.path.exists(cached / name)
        for name in source.files()
        if name.endswith((".safetensors", ".json"))
    ):
        return FolderSource(cached)
    return source


def _cached_snapshot(repo: str, revision: str | None) -> Path | None:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True))
    except Exception:  # not there, in whatever way
        return None


def _is_offline(error: Exception) -> bool:
    return type(error).__name__ == "OfflineModeIsEnabled" or getattr(error, "response", None) is None


def refused(repo: str, error: Any) -> SurgeonError:
    """huggingface_hub's errors in a line of ours."""
    page = f"https://huggingface.co/{repo}"
    kind = type(error).__name__
    words = {
        "GatedRepoError": f"is gated; accept its terms at {page}, then log in with: hf auth login",
        "RepositoryNotFoundError": "is neither a folder here nor a model of the Hub that you may read; "
        "check the name, or log in with: hf auth login",
        "RevisionNotFoundError": "has no such revision; see its branches and tags on its page",
        "OfflineModeIsEnabled": "is not in the Hub cache, and HF_HUB_OFFLINE forbids to look further",
        "HFValidationError": "is neither a folder here nor a name of the Hub",
    }
    if kind in words:
        return SurgeonError(f"{repo}: {words[kind]}")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return SurgeonError(f"{repo}: the Hub does not allow it ({status}); log in with: hf auth login")
    if status is None:
        return SurgeonError(f"{repo}: the Hub cannot be reached ({kind}); is there a network?")
    return SurgeonError(f"{repo}: the Hub answers {status}; try again later")
