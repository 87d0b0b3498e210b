"""Scores of many cuts together are those of each cut alone, and of transformers on the cut folder."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_models import make_model

import surgeon
from surgeon.measure import scoring
from surgeon.measure.grid import WHOLE, Variant, cut, grid
from surgeon.measure.scoring import Item, Scorer, make_parts
from surgeon.plan import Plan, Sublayer

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from surgeon.measure.network import Network, State  # noqa: E402

GRID = grid(6, fractions=["33%"])


def some_items(count: int, seed: int = 0, longest: int = 30) -> list[Item]:
    """Random ids of several lengths."""
    draw = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    return [
        Item(
            tuple(number(3, 128) for _ in range(number(1, longest // 2))),
            tuple(number(3, 128) for _ in range(number(1, longest // 2))),
        )
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def network() -> Network:
    return Network(make_model("llama"))


def test_scores_are_sums_of_plain_log_softmax(network: Network) -> None:
    items = some_items(9)
    (result,) = Scorer(network, batch_size=4).score(items, [WHOLE])
    for item, score in zip(items, result.scores, strict=True):
        with torch.no_grad():
            ids = torch.tensor([item.context + item.continuation])
            logprobs = network.model(ids).logits[0].double().log_softmax(-1)
        start = len(item.context) - 1
        places = range(start, start + len(item.continuation))
        expected = sum(float(logprobs[p, t]) for p, t in zip(places, item.continuation, strict=True))
        assert score.logprob == pytest.approx(expected, abs=1e-4)
        greedy = [int(logprobs[p].argmax()) for p in places] == list(item.continuation)
        assert score.greedy == greedy


def test_the_likeliest_continuation_is_seen_to_be_it(network: Network) -> None:
    context = (5, 9, 77)
    with torch.no_grad():
        best = int(network.model(torch.tensor([context])).logits[0, -1].argmax())
    items = [Item(context, (best,)), Item(context, ((best + 1) % 128,))]
    (result,) = Scorer(network).score(items, [WHOLE])
    assert [score.greedy for score in result.scores] == [True, False]
    assert result.scores[0].logprob > result.scores[1].logprob


def test_together_and_one_by_one_are_equal(network: Network) -> None:
    items = some_items(20)
    together = Scorer(network, batch_size=7).score(items, GRID)
    assert len({result.scores for result in together}) == len(GRID)
    for variant, result in zip(GRID, together, strict=True):
        (alone,) = Scorer(network, batch_size=7).score(items, [variant])
        assert alone.scores == result.scores, variant.name


def test_logits_are_looked_at_some_at_a_time(network: Network, monkeypatch: Any) -> None:
    items = some_items(40)
    (expected,) = Scorer(network).score(items, [WHOLE])
    asked = []
    logits = network.logits

    def noted(state: State, at: Any) -> Any:
        asked.append(len(at[0]))
        return logits(state, at)

    monkeypatch.setattr(scoring, "_CHUNKS", {"cpu": 1})
    monkeypatch.setattr(network, "logits", noted)
    (found,) = Scorer(network).score(items, [WHOLE])
    assert len(asked) > 1
    assert max(asked) == 128
    assert sum(asked) == sum(len(item.continuation) for item in items)
    for one, other in zip(expected.scores, found.scores, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)


def test_answers_to_one_question_are_read_once(network: Network, monkeypatch: Any) -> None:
    read = []
    embed = network.embed
    monkeypatch.setattr(network, "embed", lambda ids: (read.append(len(ids)), embed(ids))[1])
    items = [Item((7, 8, 9), (answer,)) for answer in (20, 21, 22, 23)]
    (result,) = Scorer(network).score(items, [WHOLE])
    assert read == [1]
    assert len(set(result.scores)) == 4


def test_scores_of_the_sample_are_those_of_the_cut_folder(
    sample_network: Network, tmp_path: Path
) -> None:
    items = some_items(3, seed=3)
    plan = surgeon.prune("sample", tmp_path / "out", drop="mlp", last=3, keep_last=True).plan
    whole, virtual = Scorer(sample_network).score(items, [WHOLE, cut(plan)])
    (physical,) = Scorer(Network.load(tmp_path / "out", "cpu")).score(items, [WHOLE])
    assert virtual.scores == physical.scores
    assert virtual.scores != whole.scores


def test_logits_that_are_not_numbers_name_the_cut(refuse: Callable[..., None]) -> None:
    network = Network(make_model("llama"))
    with torch.no_grad():
        network.model.model.layers[5].mlp.down_proj.weight[0, 0] = math.nan
    bad, good = Variant("the bad one"), Variant("good", frozenset({(5, Sublayer.MLP)}))
    items = some_items(2)
    Scorer(network).score(items, [good])
    refuse(lambda: Scorer(network).score(items, [good, bad]), "the bad one: its logits are not numbers")


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_a_batch_is_halved_when_memory_runs_out(
    network: Network, monkeypatch: Any, batch_size: int | None, error: Exception
) -> None:
    items = some_items(16, longest=8)
    expected = Scorer(network, batch_size=4).score(items, GRID)
    embed, sizes, said = network.embed, [], []

    def short(ids: Any) -> State:
        sizes.append(len(ids))
        if len(ids) > 4:
            raise error
        return embed(ids)

    monkeypatch.setattr(network, "embed", short)
    found = Scorer(network, batch_size, said.append).score(items, GRID)
    assert sizes[:3] == [16, 8, 4]
    assert [words.split("; ")[1] for words in said[:2]] == ["going on with 8", "going on with 4"]
    for one, other in zip(expected, found, strict=True):
        assert [s.logprob for s in one.scores] == pytest.approx([s.logprob for s in other.scores])


def test_a_single_row_that_does_not_fit(
    network: Network, monkeypatch: Any, refuse: Callable[..., None]
) -> None:
    def embed(ids: Any) -> State:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(network, "embed", embed)
    refuse(lambda: Scorer(network).score(some_items(3), GRID), "out of memory with a batch of one row")


def test_other_errors_are_not_taken_for_memory(network: Network, monkeypatch: Any) -> None:
    def embed(ids: Any) -> State:
        raise RuntimeError("something else")

    monkeypatch.setattr(network, "embed", embed)
    with pytest.raises(RuntimeError, match="something else"):
        Scorer(network).score(some_items(3), GRID)


def test_parts_hold_every_item_once_and_know_their_tokens() -> None:
    items = [*some_items(50), Item(tuple(range(100)), (1,))]
    parts = make_parts(items, tokens=64)
    assert sorted(n for part in parts for n in part.numbers) == list(range(51))
    assert all(part.items == tuple(items[n] for n in part.numbers) for part in parts)
    assert parts[0].numbers == (50,)
    assert all(part.tokens <= 64 for part in parts[1:])
    assert len({part.digest for part in parts}) == len(parts)
    assert make_parts(items, tokens=64) == parts
    moved = [Item(i.context[:-1], (i.context[-1], *i.continuation)) for i in items if i.context[1:]]
    assert not {p.digest for p in make_parts(moved)} & {p.digest for p in make_parts(items)}


def test_a_cut_of_attention_and_of_a_plan_agree(network: Network) -> None:
    items = some_items(2)
    by_grid = next(v for v in GRID if v.drop == "attn" and not v.keep_last)
    by_plan = cut(Plan.last(6, 2, "attn"))
    first, second = Scorer(network).score(items, [by_grid, by_plan])
    assert first.scores == second.scores
