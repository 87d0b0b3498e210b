"""What a killed run had scored is not scored again, and nothing else is taken for it."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from surgeon.measure.gather import Advance, Job, gather
from surgeon.measure.grid import WHOLE, Variant, grid
from surgeon.measure.journal import Journal
from surgeon.measure.scoring import Item, Result, Score

HEADER = {"model": "abc", "settings": {"window": 16, "files": ("a",)}}
ITEMS = [Item((1,) * 3000, (n, 2)) for n in range(6)]
GRID = grid(6, ["attn"], ["33%"], "both")


class Stopped(Exception):
    pass


class Counting:
    """An engine whose scores tell what they are for; it may die on the way."""

    def __init__(self, die_after: int | None = None) -> None:
        self.jobs: list[Job] = []
        self._die_after = die_after

    def __call__(
        self, jobs: Sequence[Job], advance: Advance
    ) -> Iterator[tuple[Job, tuple[Result, ...]]]:
        for job in jobs:
            if len(self.jobs) == self._die_after:
                raise Stopped
            self.jobs.append(job)
            advance(job.part.tokens)
            yield (
                job,
                tuple(
                    Result(tuple(self.score(item, variant) for item in job.part.items), 0.25)
                    for variant in job.variants
                ),
            )

    @staticmethod
    def score(item: Item, variant: Variant) -> Score:
        return Score(-item.continuation[0] / 3 - len(variant.removed), variant.keep_last)


def expected(variant: Variant) -> tuple[Score, ...]:
    return tuple(Counting.score(item, variant) for item in ITEMS)


def test_a_run_that_died_goes_on(tmp_path: Path) -> None:
    with Journal(tmp_path / "out", HEADER) as journal, pytest.raises(Stopped):
        gather(ITEMS, GRID, Counting(die_after=1), journal)
    seen: list[tuple[int, int]] = []
    with Journal(tmp_path / "out", HEADER) as journal:
        rest = Counting()
        results = gather(ITEMS, GRID, rest, journal, lambda done, total: seen.append((done, total)))
    assert [result.scores for result in results] == [expected(variant) for variant in GRID]
    assert len(rest.jobs) == 2
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] == sum(job.part.tokens for job in rest.jobs)
    assert results[0].seconds == 0.75
    with Journal(tmp_path / "out", HEADER) as journal:
        assert gather(ITEMS, GRID, Counting(die_after=0), journal) == results


def test_a_grid_may_grow(tmp_path: Path) -> None:
    with Journal(tmp_path, HEADER) as journal:
        gather(ITEMS, [WHOLE], Counting(), journal)
    with Journal(tmp_path, HEADER) as journal:
        engine = Counting()
        results = gather(ITEMS, GRID, engine, journal)
    assert {variant for job in engine.jobs for variant in job.variants} == set(GRID) - {WHOLE}
    assert [result.scores for result in results] == [expected(variant) for variant in GRID]


@pytest.mark.parametrize("torn", range(1, 60, 7))
def test_a_torn_last_line_is_done_again(tmp_path: Path, torn: int) -> None:
    with Journal(tmp_path, HEADER) as journal:
        gather(ITEMS, GRID, Counting(), journal)
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-torn])
    with Journal(tmp_path, HEADER) as journal:
        engine = Counting()
        results = gather(ITEMS, GRID, engine, journal)
    assert [job.variants for job in engine.jobs] == [(GRID[-1],)]
    assert [result.scores for result in results] == [expected(variant) for variant in GRID]
    assert path.read_bytes() == whole


def test_a_torn_header_is_written_again(tmp_path: Path) -> None:
    with Journal(tmp_path, HEADER):
        pass
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:9])
    with Journal(tmp_path, HEADER):
        pass
    assert path.read_bytes() == whole


def test_without_a_journal() -> None:
    results = gather(ITEMS, GRID, Counting())
    assert [result.scores for result in results] == [expected(variant) for variant in GRID]


def test_folders_that_are_refused(tmp_path: Path, refuse: Callable[..., None]) -> None:
    with Journal(tmp_path / "one", HEADER):
        refuse(lambda: Journal(tmp_path / "one", HEADER), "another run is writing it")
    other = {**HEADER, "model": "xyz"}
    refuse(lambda: Journal(tmp_path / "one", other), f"{tmp_path / 'one'}: ", "another model; choose")
    other = {**HEADER, "settings": {}}
    refuse(lambda: Journal(tmp_path / "one", other), "the report of another settings; choose")
    (tmp_path / "file").write_text("x")
    refuse(lambda: Journal(tmp_path / "file", HEADER), "is a file")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("x")
    refuse(lambda: Journal(tmp_path / "home", HEADER), "is not a report's folder")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letters.txt"]
    (tmp_path / "two").mkdir()
    for text in ("[1]\n", "Dear diary,\nnothing happened\n", "{}"):
        (tmp_path / "two" / "journal.jsonl").write_text(text)
        refuse(lambda: Journal(tmp_path / "two", HEADER), "is not a journal of surgeon")
        assert (tmp_path / "two" / "journal.jsonl").read_text() == text
    with Journal(tmp_path / "one", HEADER):  # a refusal holds nothing
        pass
