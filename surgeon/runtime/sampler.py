"""The choice of the next token as a small graph, so that logits stay on the device.

It also counts: lengths grow by one, and the next attention mask is made from them. A decode loop then
sends nothing to the device, and takes nothing back but token ids.
"""

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgeon.errors import SurgeonError
from surgeon.onnx.ops import Graph

if TYPE_CHECKING:
    from onnx import ModelProto

INT64 = 7


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: ``temperature`` 0 takes the likeliest; ``top_p`` below 1 draws only from
    the likeliest tokens that together have that probability; ``seed`` makes draws repeatable."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0:
            raise SurgeonError(f"--temperature {self.temperature} is below 0; use 0 for greedy")
        if not 0 < self.top_p <= 1:
            raise SurgeonError(f"--top-p {self.top_p} is not in (0, 1]")


GREEDY = Sampling()


def sampler(sampling: Sampling, element: int, vocabulary: int, capacity: int) -> "ModelProto":
    """Inputs: logits [batch, length, vocabulary] of type ``element``, int64 row [batch, 1, 1] (which
    position of each to read) and lengths [batch, 1] (real tokens so far).
    Outputs, int64: ids [batch, 1], new_lengths [batch, 1] and mask [batch, ``capacity``]."""
    import numpy as np

    graph = Graph()
    graph.input("logits", element, ["batch", "length", vocabulary])
    graph.input("row", INT64, ["batch", 1, 1])
    graph.input("lengths", INT64, ["batch", 1])
    graph.output("ids", INT64, ["batch", 1])
    graph.output("new_lengths", INT64, ["batch", 1])
    graph.output("mask", INT64, ["batch", capacity])
    picked = graph.node("GatherND", ["logits", "row"], "picked", batch_dims=1)
    scores = graph.node("Cast", [picked], "scores", to=1)
    if sampling.temperature > 0:
        _draw(graph, scores, sampling, vocabulary)
    else:
        graph.node("ArgMax", [scores], "ids", axis=-1, keepdims=0)
    one = graph.constant("one", np.array(1, np.int64))
    graph.node("Add", ["lengths", one], "new_lengths")
    positions = graph.constant("positions", np.arange(capacity, dtype=np.int64)[None])
    real = graph.node("Less", [positions, "new_lengths"], "real")
    graph.node("Cast", [real], "mask", to=INT64)
    return graph.model("sampler", {})


def _draw(graph: Graph, scores: str, sampling: Sampling, vocabulary: int) -> None:
    """Draws by the Gumbel trick: the largest of score plus noise is a sample of the softmax."""
    import numpy as np

    temperature = graph.constant("temperature", np.array(sampling.temperature, np.float32))
    scores = graph.node("Div", [scores, temperature], "tempered")
    if sampling.top_p < 1:
        size = graph.constant("vocabulary", np.array([vocabulary], np.int64))
        graph.node("TopK", [scores, size], ["sorted", "order"], axis=-1)
        shares = graph.node("Softmax", ["sorted"], "shares", axis=-1)
        axis = graph.constant("axis", np.array(2, np.int64))
        before = graph.node("CumSum", [shares, axis], "before", exclusive=1)
        limit = graph.constant("top_p", np.array(sampling.top_p, np.float32))
        likely = graph.node("Less", [before, limit], "likely")
        never = graph.constant("never", np.array(-np.inf, np.float32))
        scores = graph.node("Where", [likely, "sorted", never], "nucleus")
    # without a seed onnxruntime would take the same for every session of a process; its seeds are
    # float32, whose whole numbers end at 2^24, and it draws the same for 0 and 1
    number = (
        random.getrandbits(24)
        if sampling.seed is None
        else random.Random(sampling.seed).getrandbits(24)
    )
    seed: dict[str, Any] = {"seed": float(number + 2)}
    # float32 can draw 0 exactly, whose logarithm is not a number to go on with
    noise = graph.node("RandomUniformLike", [scores], "uniform", low=1e-7, high=1.0, **seed)
    for step in ("1", "2"):
        noise = graph.node("Neg", [graph.node("Log", [noise], f"log{step}")], f"noise{step}")
    noisy = graph.node("Add", [scores, noise], "noisy")
    if sampling.top_p < 1:
        best = graph.node("ArgMax", [noisy], "best", axis=-1, keepdims=1)
        token = graph.node("GatherElements", ["order", best], "token", axis=2)
        last = graph.constant("last_axis", np.array([2], np.int64))
        graph.node("Squeeze", [token, last], "ids")
    else:
        graph.node("ArgMax", [noisy], "ids", axis=-1, keepdims=0)
