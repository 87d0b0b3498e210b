"""Folders of models in several shapes: cut before, of other families, in many shards."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

from small_models import FAMILIES, make_model

import surgeon
from surgeon.plan import Plan, Sublayer


def folders(room: Path) -> Callable[[str], Path | str]:
    """By name; each is made when it is first asked for."""

    @cache
    def find(name: str) -> Path | str:
        folder = room / name
        if name == "cut":
            surgeon.prune("sample", folder, drop="attn", last=2)
        elif name == "joined":  # an attention and the MLP of the next layer are one block
            removed = frozenset({(3, Sublayer.MLP), (4, Sublayer.ATTENTION)})
            surgeon.prune("sample", folder, Plan(12, removed))
        elif name.endswith("-cut"):
            surgeon.prune(find(name.removesuffix("-cut")), folder, drop="attn", layers="1,4")
        elif name in FAMILIES:
            make_model(name, vocab_size=2048).save_pretrained(folder, max_shard_size="90KB")
            sample = Path(surgeon.__file__).parent / "sample"
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(sample / file, folder)
        else:
            return name
        return folder

    return find
