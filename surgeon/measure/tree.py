"""Cuts that share computation: the sublayers that each keeps, as a tree of common beginnings.

All cuts of the last layers run through the same lower part of the network. Walking the tree computes
each common beginning once; at a branching point the residual stream is kept, and every branch goes on
from it.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from surgeon.plan import Site

State = TypeVar("State")


@dataclass
class Branch:
    """A run of sublayers, then the numbers of the cuts that end there and the branches that go on."""

    sites: list[Site] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    branches: list["Branch"] = field(default_factory=list)

    @property
    def evaluations(self) -> int:
        """How many sublayers a walk computes."""
        return len(self.sites) + sum(branch.evaluations for branch in self.branches)


def shared_tree(sites: Sequence[Site], cuts: Iterable[Collection[Site]]) -> Branch:
    """The tree of cuts, each a set of removed sites, of a model with these ``sites`` in this order.

    Cuts are numbered as they come; equal ones end at the same place.
    """
    kept = [tuple(site for site in sites if site not in cut) for cut in cuts]
    return _grow(sorted(range(len(kept)), key=kept.__getitem__), kept, 0)


def _grow(numbers: list[int], kept: list[tuple[Site, ...]], depth: int) -> Branch:
    """The branch of cuts that agree in their first ``depth`` sublayers; ``numbers`` sorts the cuts."""
    first, last = kept[numbers[0]], kept[numbers[-1]]
    fork = depth
    while fork < min(len(first), len(last)) and first[fork] == last[fork]:
        fork += 1
    branch = Branch(list(first[depth:fork]))
    groups: dict[Site, list[int]] = {}
    for number in numbers:
        if len(kept[number]) == fork:
            branch.ends.append(number)
        else:
            groups.setdefault(kept[number][fork], []).append(number)
    grown = (_grow(group, kept, fork) for group in groups.values())
    # the longest last: the state at the fork is then let go before the long way is taken
    branch.branches = sorted(grown, key=lambda branch: branch.evaluations)
    return branch


def follow(
    tree: Branch,
    state: State,
    advance: Callable[[State, Site], State],
    finish: Callable[[int, State], None],
) -> None:
    """Walks a tree from ``state``: ``advance`` by each sublayer, ``finish`` where a cut ends.

    A state at a branching point lives until its last branch is taken.
    """
    waiting = [(tree, state)]
    del state
    while waiting:
        branch, current = waiting.pop()
        for site in branch.sites:
            current = advance(current, site)
        for number in branch.ends:
            finish(number, current)
        waiting += [(onward, current) for onward in reversed(branch.branches)]
