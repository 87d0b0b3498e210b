"""What is seen of the residual stream of a running model, layer by layer, and its averages.

The averages are streams themselves: what has been seen is joined with what comes, in float64, and only
the states of one pass are in memory, whatever the number of tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.measure.network import Network, State
from surgeon.measure.results import Subject
from surgeon.measure.similarity import LayerSimilarity, Similarity, Spread
from surgeon.plan import Sublayer

STRIDE = 16
"""Angular distances look at the last token of a window, as Gromov et al. do, and every 16th before."""

Part = Sublayer | None
"""An attention, an MLP, or None for the layer as a whole."""


@dataclass
class Moments:
    """Count, mean and sum of squared deviations of a stream of numbers, in float64.

    Parts are joined as Chan, Golub and LeVeque do (1979), so that no precision is lost to the order.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def merge(self, other: "Moments") -> None:
        """Adds all that the other one has seen."""
        if not self.count:  # exactly, not within rounding
            self.count, self.mean, self.squares = other.count, other.mean, other.squares
            return
        count = self.count + other.count
        delta = other.mean - self.mean
        self.mean += delta * other.count / count
        self.squares += other.squares + delta * delta * self.count * other.count / count
        self.count = count

    @property
    def spread(self) -> Spread:
        """What has been seen, summed up."""
        return Spread(self.mean, math.sqrt(self.squares / self.count))


@dataclass
class Tally:
    """What was seen of a model so far: ``angles[a][b]`` sums angular distances between the inputs of
    layers a and b, a tensor [layers + 1, layers + 1], over ``points`` tokens.
    """

    num_layers: int
    parts: dict[tuple[int, Part], Moments] = field(default_factory=dict)
    angles: Any = 0.0
    points: int = 0

    def merge(self, other: "Tally") -> None:
        """Adds all that the other one has seen."""
        for key, moments in other.parts.items():
            self.parts.setdefault(key, Moments()).merge(moments)
        self.angles = self.angles + other.angles
        self.points += other.points

    def result(self, subject: Subject, headers: str, settings: dict[str, Any]) -> Similarity:
        """The averages; ``headers`` is the fingerprint of the checkpoint."""

        def spread(layer: int, part: Part) -> Spread | None:
            moments = self.parts.get((layer, part))
            return None if moments is None else moments.spread

        layers = range(self.num_layers)
        return Similarity(
            subject=subject,
            headers=headers,
            settings=settings,
            tokens=self.parts[0, None].count,
            layers=tuple(
                LayerSimilarity(
                    self.parts[layer, None].spread,
                    spread(layer, Sublayer.ATTENTION),
                    spread(layer, Sublayer.MLP),
                )
                for layer in layers
            ),
            angular=tuple(
                tuple(float(sum_) / self.points for sum_ in self.angles.diagonal(n))
                for n in range(1, self.num_layers + 1)
            ),
            angular_tokens=self.points,
        )


def look(
    network: Network,
    batches: Sequence[Sequence[Sequence[int]]],
    name: str = "",
    step: Callable[[int], None] = lambda count: None,
) -> Tally:
    """One pass of batches through the layers, each layer used for all of them before the next.

    The first position of each window does not count. SurgeonError, beginning with ``name``, for states
    that are not finite; ``step`` is told how many windows x layers are done.
    """
    tally = Tally(network.num_layers)
    done = 0
    states = [network.embed(batch) for batch in batches]
    points = [[_points(state)] for state in states]
    for layer in range(network.num_layers):
        for number, before in enumerate(states):
            now = before
            for sub in Sublayer:
                if (layer, sub) in network.sites:
                    after = network.advance(now, (layer, sub))
                    moments = _cosines(now, after)
                    if not math.isfinite(moments.mean):
                        raise SurgeonError(
                            f"{name}: the {sub.word} of layer {layer} makes features that are not "
                            f"finite in {network.dtype}; try --dtype float32"
                        )
                    tally.parts.setdefault((layer, sub), Moments()).merge(moments)
                    now = after
            tally.parts.setdefault((layer, None), Moments()).merge(_cosines(before, now))
            points[number].append(_points(now))
            states[number] = now
            done += len(batches[number])
            step(done)
    for stream in points:
        tally.angles = tally.angles + _angles(stream)
        tally.points += math.prod(stream[0].shape[:2])
    return tally


def _cosines(before: State, after: State) -> Moments:
    """The cosine similarities of all tokens but the first of each row."""
    from torch.nn.functional import cosine_similarity

    values = cosine_similarity(before.hidden[:, 1:].float(), after.hidden[:, 1:].float(), dim=-1)
    values = values.double()
    mean = values.mean()
    return Moments(values.numel(), float(mean), float((values - mean).square().sum()))


def _points(state: State) -> Any:
    """The states [batch, points, width] that angles are taken between."""
    length = state.hidden.shape[1]
    places = list(range(length - 1, 0, -STRIDE))
    return state.hidden[:, places].cpu()


def _angles(stream: Sequence[Any]) -> Any:
    """Angular distances between the states at all inputs of layers, summed: [layers + 1, layers + 1].

    ``stream`` has the points [batch, points, width] before each layer and after the last.
    """
    import torch

    total = torch.zeros(len(stream), len(stream), dtype=torch.float64)
    for row in range(len(stream[0])):
        states = torch.stack([states[row] for states in stream], dim=1).double()
        unit = torch.nn.functional.normalize(states, dim=-1)
        cosines = (unit @ unit.transpose(1, 2)).clamp(-1, 1)
        total += (cosines.arccos() / math.pi).sum(0)
    return total
