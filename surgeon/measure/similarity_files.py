"""The folder that ``surgeon similarity -o`` writes: similarity.json and its figure as PNG and SVG."""

import os
from pathlib import Path

from surgeon.checkpoint.source import expand, open_checkpoint
from surgeon.errors import SurgeonError
from surgeon.jsonfile import encode_json
from surgeon.measure.files import write_file
from surgeon.measure.plots import check_plots, similarity_figure
from surgeon.measure.similarity import NAME, Similarity, read_similarity


def check_folder(folder: str | os.PathLike[str], model: str | os.PathLike[str]) -> None:
    """SurgeonError if the files for ``model`` cannot go there; to be asked before the long work.

    A similarity of the same model is replaced, that of another one is not.
    """
    place = expand(folder)
    check_plots()
    if os.path.lexists(place) and not place.is_dir():
        raise SurgeonError(f"{place}: is a file; choose another folder for -o")
    nearest = next(p for p in (place, *place.absolute().parents) if p.is_dir())
    if not os.access(nearest, os.W_OK):
        raise SurgeonError(f"{place}: cannot be written; choose another folder for -o")
    if (place / NAME).exists():
        other, where = read_similarity(place)
        if other.headers != open_checkpoint(model).fingerprint:
            raise SurgeonError(
                f"{where}: is of another model, {other.subject.model}; choose another folder for -o"
            )


def write_similarity(similarity: Similarity, folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Writes the files, each whole or not at all, and gives their names."""
    drawn = similarity_figure(similarity)
    files = {NAME: encode_json(similarity.to_json())}
    files |= {f"{Path(NAME).stem}.{kind}": data for kind, data in drawn.items()}
    for name, data in files.items():
        write_file(expand(folder) / name, data)
    return tuple(files)
