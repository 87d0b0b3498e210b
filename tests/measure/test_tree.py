"""Every cut gets exactly its own sublayers, and what cuts have in common is computed once."""

import itertools
import random
from collections.abc import Sequence

import pytest

from surgeon.measure.grid import grid
from surgeon.measure.tree import follow, shared_tree
from surgeon.plan import Site, Sublayer


def stack(layers: int) -> list[Site]:
    return [(layer, sub) for layer in range(layers) for sub in Sublayer]


def walk(sites: Sequence[Site], cuts: Sequence[frozenset[Site]]) -> tuple[list[tuple[Site, ...]], int]:
    """The sublayers that each cut went through, and how many were computed in all."""
    count = 0
    ends: dict[int, tuple[Site, ...]] = {}

    def advance(state: tuple[Site, ...], site: Site) -> tuple[Site, ...]:
        nonlocal count
        count += 1
        return (*state, site)

    def finish(number: int, state: tuple[Site, ...]) -> None:
        assert number not in ends
        ends[number] = state

    follow(shared_tree(sites, cuts), (), advance, finish)
    return [ends[number] for number in range(len(cuts))], count


def kept(sites: Sequence[Site], cut: frozenset[Site]) -> tuple[Site, ...]:
    return tuple(site for site in sites if site not in cut)


def test_the_grid_of_the_paper_on_24_layers() -> None:
    sites, variants = stack(24), grid(24)
    cuts = [variant.removed for variant in variants]
    assert len(cuts) == 19
    assert sum(len(kept(sites, cut)) for cut in cuts) == 784
    ends, count = walk(sites, cuts)
    assert ends == [kept(sites, cut) for cut in cuts]
    assert count == shared_tree(sites, cuts).evaluations == 124


@pytest.mark.parametrize("seed", range(20))
def test_any_set_of_cuts(seed: int) -> None:
    numbers = random.Random(seed)
    sites = stack(5)
    cuts = [
        frozenset(numbers.sample(sites, numbers.randrange(len(sites) + 1)))
        for _ in range(numbers.randrange(1, 12))
    ]
    ends, count = walk(sites, cuts)
    assert ends == [kept(sites, cut) for cut in cuts]
    prefixes = {end[:n] for end in ends for n in range(1, len(end) + 1)}
    assert count == len(prefixes)


def test_equal_cuts_and_a_source_without_some_sublayers() -> None:
    sites = [site for site in stack(3) if site != (1, Sublayer.ATTENTION)]
    cut = frozenset({(2, Sublayer.MLP)})
    ends, count = walk(sites, [cut, frozenset(), cut])
    assert ends[0] == ends[2] == tuple(sites[:-1])
    assert count == len(sites)


def test_one_sublayer_left_out_of_a_deep_model() -> None:
    sites = stack(126)
    cuts = [frozenset({site}) for site in sites]
    ends, count = walk(sites, cuts)
    assert ends == [kept(sites, cut) for cut in cuts]
    assert count == len({end[:n] for end, n in itertools.product(ends, range(1, len(sites)))})


def test_states_are_let_go() -> None:
    """Only branching points that are still needed are held."""

    class State:
        alive = 0

        def __init__(self) -> None:
            State.alive += 1

        def __del__(self) -> None:
            State.alive -= 1

    most = 0

    def advance(_: State, __: Site) -> State:
        nonlocal most
        most = max(most, State.alive)
        return State()

    follow(
        shared_tree(stack(24), [variant.removed for variant in grid(24)]),
        State(),
        advance,
        lambda number, state: None,
    )
    assert State.alive == 0
    assert most <= 4
