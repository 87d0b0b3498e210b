"""How little each sublayer turns the residual stream: the paper's Figure 1 as values and JSON.

The similarity of a layer is the cosine between the features before and after it, averaged over
tokens (Tyukin et al., arXiv 2407.15516, Figure 1); the same is taken around each attention and each
MLP. What hardly turns the stream is a candidate for a cut. The angular distance between the inputs of
layers l and l+n, arccos(cosine)/pi, is how Gromov et al., arXiv 2403.17887, find a run of n blocks.
Features are those of the stream itself, so the last layer's are taken before the final norm.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from typing import Any, Self

from surgeon.checkpoint.source import Checkpoint, expand
from surgeon.errors import SurgeonError
from surgeon.measure.opened import fingerprint
from surgeon.measure.results import Subject

FORMAT = 1
"""The number of this JSON layout; files of another one are refused."""

KIND = "surgeon similarity"
"""What the file says it is, since other files of reports are JSON with a format as well."""

NAME = "similarity.json"


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (of the population) of a similarity over tokens; no unit."""

    mean: float
    std: float


@dataclass(frozen=True)
class LayerSimilarity:
    """One layer: cosine similarity across all of it, its attention, its MLP; None for what it lacks."""

    layer: Spread
    attention: Spread | None
    mlp: Spread | None


@dataclass(frozen=True)
class Similarity:
    """What was measured on ``tokens`` tokens of one model.

    ``headers`` is the fingerprint of its checkpoint's headers, which can be known without the weights.
    ``angular[n-1][l]`` is the angular distance (0 to 1) between the input of layer l and that of layer
    l+n, over ``angular_tokens`` tokens; l+n may be the end of the stream.
    """

    subject: Subject
    headers: str
    settings: dict[str, Any]
    tokens: int
    layers: tuple[LayerSimilarity, ...]
    angular: tuple[tuple[float, ...], ...]
    angular_tokens: int

    def scores(self, drop: str) -> tuple[float | None, ...]:
        """The similarity that ranks each layer for a cut of "attn", "mlp" or "block"."""
        part = {"attn": "attention", "mlp": "mlp", "block": "layer"}[drop]
        spreads = (getattr(layer, part) for layer in self.layers)
        return tuple(None if spread is None else spread.mean for spread in spreads)

    def curves(self) -> dict[str, tuple[float | None, ...]]:
        """Means by layer for charts and figures, by the words of their legends."""
        words = {"layer": "block", "attention": "attn", "MLP": "mlp"}
        return {word: self.scores(drop) for word, drop in words.items()}

    def run(self, count: int) -> tuple[int, float]:
        """The ``count`` consecutive layers that turn the stream least: the first one, the distance."""
        distances = self.angular[count - 1]
        first = min(range(len(distances)), key=distances.__getitem__)
        return first, distances[first]

    def describe(self) -> str:
        """Model and text in words."""
        subject = self.subject
        at = f"@{subject.revision}" if subject.revision else ""
        return f"{subject.model}{at}, {self.tokens:,} tokens of {self.settings.get('text', 'a text')}"

    def check_belongs(self, checkpoint: Checkpoint, where: str) -> str:
        """What could be compared, in words: "" if all; SurgeonError if it is of another model.

        Of a checkpoint that is not on this machine, only the headers are looked at.
        """
        name, source = self.subject.model, checkpoint.source
        if self.headers != checkpoint.fingerprint:
            found = self.subject.num_layers, checkpoint.structure.num_layers
            of = f", {found[0]} layers" if found[0] != found[1] else ""
            raise SurgeonError(
                f"{where}: is of {name}{of}, whose tensors are not those of {source.name}; "
                "run surgeon similarity on this model"
            )
        if source.folder is not None:
            if self.subject.fingerprint != fingerprint(checkpoint):
                raise SurgeonError(
                    f"{where}: is of {name}, whose weights are not those of {source.name}; "
                    "run surgeon similarity on this model"
                )
            return ""
        same = source.revision is not None and (name, self.subject.revision) == (
            source.name,
            source.revision,
        )
        return "" if same else "headers compared, weights not"

    def to_json(self) -> dict[str, Any]:
        """As it stands in similarity.json."""
        return {"format": FORMAT, "kind": KIND, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any], where: str) -> Self:
        """Reads what ``to_json`` wrote; SurgeonError, naming ``where``, on anything else."""
        if not isinstance(data, dict) or data.get("kind") != KIND:
            raise SurgeonError(f"{where}: is not a file of surgeon similarity")
        found = data.get("format")
        if found != FORMAT:
            raise SurgeonError(f"{where}: is of format {found}, not {FORMAT}; measure anew")
        try:
            subject = Subject(**data["subject"])
            layers = tuple(
                LayerSimilarity(_spread(row["layer"]), _part(row["attention"]), _part(row["mlp"]))
                for row in data["layers"]
            )
            angular = tuple(tuple(_number(x) for x in row) for row in data["angular"])
            if len(layers) != subject.num_layers:
                raise ValueError(f"{len(layers)} layers instead of {subject.num_layers}")
            if [len(row) for row in angular] != list(range(len(layers), 0, -1)):
                raise ValueError("angular is no triangle")
            return cls(
                subject,
                str(data["headers"]),
                dict(data["settings"]),
                int(data["tokens"]),
                layers,
                angular,
                int(data["angular_tokens"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SurgeonError(f"{where}: is not a file of surgeon similarity ({error!r})") from None


def nines(value: float) -> float:
    """The scale that charts are drawn on: 0.9 is 1, 0.99 is 2, 0.999 is 3.

    The first layer of a trained Llama is far below all others, which a linear scale would press into
    one line.
    """
    return -math.log10(max(1 - value, 1e-6))


def read_similarity(path: str | os.PathLike[str]) -> tuple[Similarity, str]:
    """The similarity in a file, or in a folder that has one, and the path that was read."""
    place = expand(path)
    if place.is_dir():
        place = place / NAME
    try:
        data = json.loads(place.read_bytes().decode("utf-8"))
    except OSError as error:
        raise SurgeonError(f"{place}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise SurgeonError(f"{place}: is not a file of surgeon similarity; it is not JSON") from None
    return Similarity.from_json(data, str(place)), str(place)


def _spread(data: dict[str, Any]) -> Spread:
    return Spread(_number(data["mean"]), _number(data["std"]))


def _part(data: dict[str, Any] | None) -> Spread | None:
    return None if data is None else _spread(data)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)
