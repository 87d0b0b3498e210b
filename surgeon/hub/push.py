"""Publishing a pruned folder: ``surgeon push``. huggingface_hub does the transfer."""

import fnmatch
import os
from dataclasses import dataclass
from typing import Any

from surgeon.checkpoint.source import expand, open_checkpoint, read_json
from surgeon.checkpoint.staging import SURGERY
from surgeon.companions import companion_names, license_lines, llama_duties
from surgeon.errors import SurgeonError
from surgeon.hub.source import refused
from surgeon.measure.card import MEASURED, refresh_card
from surgeon.surgery import NAS_CODE, OWN_CODE

_PUBLIC = (
    "*.safetensors",
    "*.json",
    "*.md",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "*.onnx",
    "*.onnx.data",
    *NAS_CODE,
    *OWN_CODE,
)
"""What a model's folder holds, beside the companions that prune brings along; nothing else, and nothing
hidden, ever leaves it."""


@dataclass(frozen=True)
class PushReport:
    """What was uploaded, or with ``dry_run`` would be. ``url`` is that of the commit or pull request.

    ``advice`` are duties of the publisher that surgeon can see, as sentences.
    """

    repo: str
    files: dict[str, int]
    left_out: tuple[str, ...]
    advice: tuple[str, ...]
    url: str | None


def push(
    folder: str | os.PathLike[str],
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
) -> PushReport:
    """Uploads a pruned folder to ``repo`` (ORG/NAME), which is made if it is not there.

    The model card goes as it is, edited or not, but for its section on what was measured, which follows
    the measured.json beside it. ``revision`` is a branch, made if need be.

    Raises SurgeonError if surgeon did not make the folder, or the Hub does not allow it.
    """
    place = expand(folder)
    checkpoint = open_checkpoint(place)
    found = checkpoint.source.files()
    if SURGERY not in found:
        raise SurgeonError(f"{place}: has no {SURGERY}; surgeon did not make it, so it is not pushed")
    if not dry_run and refresh_card(place):
        found = open_checkpoint(place).source.files()
    along = companion_names(checkpoint.source)
    files = {name: size for name, size in sorted(found.items()) if name in along or _is_public(name)}
    files.pop(MEASURED, None)  # what it says is in the card, without the paths of this machine
    base = str(read_json(checkpoint.source, SURGERY).get("source", {}).get("model", ""))
    advice = llama_duties(license_lines(checkpoint.source), base, repo)
    url = None
    if not dry_run:
        url = _upload(str(place), repo, list(files), private, revision, create_pr)
    return PushReport(repo, files, tuple(sorted(found.keys() - files.keys())), advice, url)


def _is_public(name: str) -> bool:
    base = name.rpartition("/")[2]
    return not base.startswith(".") and any(fnmatch.fnmatchcase(base.lower(), p) for p in _PUBLIC)


def _upload(
    folder: str, repo: str, files: list[str], private: bool, revision: str | None, create_pr: bool
) -> str:
    try:
        import huggingface_hub
    except ImportError:
        raise SurgeonError("push needs huggingface-hub; run: pip install huggingface-hub") from None
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None and not create_pr:
            api.create_branch(repo, branch=revision, exist_ok=True)
        done: Any = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=files,
            revision=revision,
            create_pr=create_pr,
            commit_message="Upload a model pruned with surgeon",
        )
    except Exception as error:  # of many kinds, all about the network or what the user may do
        raise refused(repo, error) from None
    return str(done.pr_url if create_pr else done.commit_url)
