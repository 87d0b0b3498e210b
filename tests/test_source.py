"""Opening a checkpoint: which files count, what it is called, what is read of it."""

import dataclasses
import json
import os
from pathlib import Path

import checkpoints
import pytest
from checkpoints import Spec

from surgeon.checkpoint.source import FolderSource, find_source, open_checkpoint, sample_folder
from surgeon.errors import SurgeonError

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


def test_tensors_are_where_the_headers_say(tmp_path: Path) -> None:
    spec = Spec(shards=3, dtypes={"up_proj": "F32"})
    opened = open_checkpoint(checkpoints.make(tmp_path / "model", spec))
    for name, (dtype, shape, data) in checkpoints.weights(spec).items():
        tensor = opened.tensors[name]
        assert (tensor.dtype, tensor.shape) == (dtype, shape)
        assert opened.source.read(tensor.file, tensor.offset, tensor.length) == data
    assert list(opened.shards) == [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    assert opened.shards == {name: (tmp_path / "model" / name).stat().st_size for name in opened.shards}


def test_files_that_no_index_names_do_not_count(tmp_path: Path) -> None:
    model = checkpoints.make(tmp_path / "model", shards=2)
    (model / "consolidated.safetensors").write_bytes(b"not even a header")
    (model / "model-00003-of-00003.safetensors").write_bytes(b"neither")
    assert len(open_checkpoint(model).shards) == 2


def test_the_index_decides_between_two_copies(tmp_path: Path) -> None:
    model = checkpoints.make(tmp_path / "model", shards=2)
    first, second = sorted(model.glob("*.safetensors"))
    tensors = checkpoints.read_file(second)
    moved = checkpoints.read_file(first) | {"model.norm.weight": ("F32", (16,), b"old!" * 16)}
    checkpoints.write_weights(first, moved)
    assert open_checkpoint(model).tensors["model.norm.weight"].file == second.name
    assert "model.norm.weight" in tensors


def test_tensors_that_the_index_forgot_are_there_all_the_same(tmp_path: Path) -> None:
    model = checkpoints.make(tmp_path / "model", shards=2)
    index = model / "model.safetensors.index.json"
    data = json.loads(index.read_text())
    del data["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(data))
    assert "model.norm.weight" in open_checkpoint(model).tensors


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_source("sample").name == "sample"
    assert find_source(sample_folder()).name == "sample"
    model = checkpoints.make(tmp_path / "model")
    for path in (model, f"{model}/", model / "..", model / "." / "../model"):
        expected = "model" if Path(path).resolve() == model.resolve() else tmp_path.name
        assert find_source(path).name == expected
    monkeypatch.chdir(model)
    assert find_source(".").name == "model"
    assert find_source(".").revision is None
    checkpoints.make(tmp_path / "sample")
    monkeypatch.chdir(tmp_path)
    assert find_source("sample").folder == sample_folder()
    assert find_source("./sample").download().resolve() == tmp_path / "sample"


def test_a_snapshot_in_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "models--org--some--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    source = FolderSource(snapshot)
    # names with -- in them cannot be told apart; the first is the organisation
    assert (source.name, source.revision) == ("org/some/name", COMMIT)
    monkeypatch.chdir(snapshot)
    assert find_source(".").revision == COMMIT
    monkeypatch.chdir(tmp_path)
    os.symlink(snapshot, "link")
    assert find_source("link").name == COMMIT
    assert FolderSource(tmp_path / "snapshots" / COMMIT).revision is None


def test_the_fingerprint_follows_the_headers(tmp_path: Path) -> None:
    spec = Spec()
    prints = {
        open_checkpoint(checkpoints.make(tmp_path / str(number), one)).fingerprint
        for number, one in enumerate(
            [
                spec,
                dataclasses.replace(spec, vocab=33),
                dataclasses.replace(spec, dtype="F16"),
                dataclasses.replace(spec, metadata={"format": "np"}),
                dataclasses.replace(spec, shards=2),
            ]
        )
    }
    assert len(prints) == 5
    again = open_checkpoint(checkpoints.make(tmp_path / "again", spec)).fingerprint
    assert again in prints


def test_a_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(SurgeonError, match=r"config\.json: not found"):
        open_checkpoint(tmp_path)


def test_folders_and_pipes_are_no_files(model: Path) -> None:
    (model / "tokenizer").mkdir()
    os.mkfifo(model / "tokenizer.pipe")
    (model / "tokenizer.gone").symlink_to("nowhere")
    assert set(FolderSource(model).files()) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "LICENSE.txt",
    }
