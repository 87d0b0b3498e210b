"""All scores of a grid, part by part: from the journal where it knows them, else from an engine."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from surgeon.measure.grid import Variant
from surgeon.measure.journal import Journal
from surgeon.measure.opened import Opened
from surgeon.measure.scoring import Item, Part, Result, Score, Scorer, make_parts


@dataclass(frozen=True)
class Job:
    """A part of the items, and the cuts whose scores for it are not known yet."""

    part: Part
    variants: tuple[Variant, ...]


Advance = Callable[[int], None]
"""Gets the number of tokens that were just scored under all cuts of their job."""

Engine = Callable[[Sequence[Job], Advance], Iterator[tuple[Job, tuple[Result, ...]]]]
"""Does jobs in any order; yields each with a result for each of its variants as soon as it is done."""


def local_engine(
    opened: Opened,
    batch_size: int | None = None,
    notify: Callable[[str], None] = lambda words: None,
) -> Engine:
    """The engine of this process, one job after the other; weights are loaded for the first one."""

    def engine(jobs: Sequence[Job], advance: Advance) -> Iterator[tuple[Job, tuple[Result, ...]]]:
        if jobs:
            scorer = Scorer(opened.network, batch_size, notify)
        for job in jobs:
            yield job, scorer.score(job.part.items, job.variants, advance)

    return engine


def gather(
    items: Sequence[Item],
    variants: Sequence[Variant],
    engine: Engine,
    journal: Journal | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Result, ...]:
    """A result for each variant, its scores in the order of ``items``.

    ``progress`` gets the tokens that are done and those that there are to do in this run.
    """
    parts = make_parts(items)
    known: dict[tuple[str, Variant], Result] = {}
    jobs = []
    for part in parts:
        for variant in variants:
            if journal is not None and (found := journal.get(part, variant)) is not None:
                known[part.digest, variant] = found
        missing = tuple(v for v in variants if (part.digest, v) not in known)
        if missing:
            jobs.append(Job(part, missing))
    done, total = 0, sum(job.part.tokens for job in jobs)

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        progress(done, total)

    progress(done, total)
    for job, results in engine(jobs, advance):
        if journal is not None:
            journal.put(job.part, job.variants, results)
        for variant, result in zip(job.variants, results, strict=True):
            known[job.part.digest, variant] = result
    return tuple(
        _whole(parts, [known[part.digest, variant] for part in parts], len(items))
        for variant in variants
    )


def _whole(parts: Sequence[Part], results: Sequence[Result], count: int) -> Result:
    """The results of all parts as one, in the order of the items."""
    scores: dict[int, Score] = {}
    for part, result in zip(parts, results, strict=True):
        scores.update(zip(part.numbers, result.scores, strict=True))
    return Result(tuple(scores[n] for n in range(count)), sum(result.seconds for result in results))
