"""Rounds: who runs when, on which prompts, and what becomes of the times. Steps and clock are fakes."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from surgeon.errors import SurgeonError
from surgeon.measure.grid import WHOLE, grid
from surgeon.measure.latency import loops, rounds
from surgeon.measure.latency.loops import WARMUP, Times, take_times, time_task
from surgeon.measure.latency.rounds import DECODE_ROUNDS, LATER_WARMUP, ROUNDS, todo
from surgeon.measure.latency.values import Bench, Task
from surgeon.measure.results import Subject

PREFILL, DECODE = Task("prefill", 50), Task("decode", 100, 2)
VARIANTS = grid(6, fractions=("33%",), keep_last="no")
NAMES = [variant.name for variant in VARIANTS]
EMPTY = Bench(Subject("m", None, "f", 6, 1, "float32", "a CPU", {}), {}, {}, ())


@dataclass
class Machine:
    """Runs everything in ``seconds`` a share, and each prompt in ``speed(now)`` milliseconds."""

    seconds: float = 1.0
    speed: object = lambda now: 10.0
    now: float = 0.0
    calls: list = field(default_factory=list)
    opened: list = field(default_factory=list)
    said: list = field(default_factory=list)
    broken: dict = field(default_factory=dict)

    def open(self, operation):
        name = operation or "whole"
        self.opened.append(name)

        def measure(task, numbers, warmup):
            if error := self.broken.get((name, task.kind)):
                raise error
            self.calls.append((name, task.kind, list(numbers), warmup))
            self.now += self.seconds
            peak = {"whole": 100, NAMES[1]: None}.get(name, len(self.calls))
            first = [7.0] if task.kind == "decode" else []
            return Times([self.speed(self.now)] * len(numbers), warmup, first), peak

        return measure, 0.5

    def run(
        self, tasks=(PREFILL,), sequences=20, deadline=float("inf"), report=EMPTY, variants=VARIANTS
    ):
        operations = {v.name: v.name if v.removed else None for v in variants}
        jobs = todo(report, variants, tasks)
        return rounds.run(self.open, operations, jobs, report, sequences, deadline, self.said.append)


@pytest.fixture
def machine(monkeypatch):
    made = Machine()
    monkeypatch.setattr(rounds, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_forward_and_backward_by_turns(machine):
    list(machine.run())
    order = [name for name, *_ in machine.calls]
    assert order == [*NAMES, *NAMES[::-1]] * (ROUNDS // 2)
    assert machine.opened == NAMES  # once


@pytest.mark.parametrize("sequences", [1, 3, 10, 25, 1000])
def test_every_variant_has_every_prompt_once(machine, sequences):
    (*_, last) = machine.run(sequences=sequences)
    for name in NAMES:
        shares = [numbers for variant, _, numbers, _ in machine.calls if variant == name]
        assert len(shares) == min(ROUNDS, sequences)
        assert [number for share in shares for number in share] == list(range(sequences))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    counts = [cell.timing.count for cell in last.report.cells if cell.variant != WHOLE]
    assert counts == [sequences] * 3
    whole = [cell.timing.count for cell in last.report.find(WHOLE, PREFILL)]
    assert sum(whole) == sequences
    assert len(whole) == min(2, sequences)
    assert last.done == last.total == 3 + len(whole)


def test_decoding_has_fewer_rounds_and_a_prompt_each(machine):
    (*_, last) = machine.run((DECODE,))
    assert [call[2] for call in machine.calls if call[0] == "whole"] == [
        [n] for n in range(DECODE_ROUNDS)
    ]
    assert last.report.cells[-1].timing.first_pass == 7.0


def test_warm_up_is_short_after_the_first_round(machine):
    (*_, last) = machine.run()
    warmups = [call[3] for call in machine.calls]
    assert warmups == [WARMUP] * 4 + [LATER_WARMUP] * 4 * (ROUNDS - 1)
    assert last.report.cells[-1].timing.warmup == WARMUP + LATER_WARMUP * (ROUNDS - 1)


def test_a_machine_that_slows_down_for_good_slows_all_alike(machine):
    """After 40 % of the time; measured one after the other, cuts would look 50 % slower than others."""
    machine.speed = lambda now: 10.0 if now <= 16 else 15.0
    (*_, last) = machine.run()
    report = last.report
    assert report.baseline(PREFILL) == 15.0
    assert report.drift(PREFILL) == 0
    assert [report.improvement(variant, PREFILL) for variant in VARIANTS[1:]] == [0.0, 0.0, 0.0]
    timing = report.cells[-1].timing
    assert (timing.fastest, timing.median, timing.mean) == (10.0, 15.0, 13.0)


def test_cells_have_the_time_and_the_largest_peak_of_all_their_rounds(machine):
    (*_, last) = machine.run()
    first, second, attn, mlp, block = last.report.cells
    assert [cell.variant.name for cell in last.report.cells] == ["whole", *NAMES]
    assert (first.seconds, second.seconds, attn.seconds) == (5.0, 5.0, 10.0)
    assert (first.peak_bytes, attn.peak_bytes) == (100, None)
    # forward it is the third and fourth of a round, backward the second and first
    assert (mlp.peak_bytes, block.peak_bytes) == (38, 37)
    assert attn.load == 0.5


def test_the_minutes_end_after_the_same_prompts_for_all(machine):
    """A round takes 4 s: the third would end at 12."""
    found = list(machine.run((PREFILL, DECODE), sequences=20, deadline=11.0))
    assert machine.now == 8.0
    counts = {cell.variant.name: 0 for cell in found[-1].report.cells}
    for cell in found[-1].report.cells:
        counts[cell.variant.name] += cell.timing.count
    assert counts == dict.fromkeys(NAMES, 4)
    assert {progress.cell.task for progress in found} == {PREFILL}
    assert machine.said[-1] == "prefill 50: ended after 2 of 10 rounds, as --minutes says"


def test_there_is_always_one_round(machine):
    found = list(machine.run((PREFILL, DECODE), deadline=-1.0))
    assert [call[0] for call in machine.calls] == NAMES
    assert [progress.cell.timing.count for progress in found] == [2] * 4


def test_what_is_said(machine):
    found = list(machine.run((PREFILL, DECODE), sequences=3))
    assert machine.said == [
        "prefill 50: about 12 s",
        "prefill 50: round 1 of 3, 0.1 min left of it",
        "prefill 50: round 2 of 3, 0.1 min left of it",
        "decode 100 x2: about 12 s",
        "decode 100 x2: round 1 of 3, 0.1 min left of it",
        "decode 100 x2: round 2 of 3, 0.1 min left of it",
    ]
    assert [progress.done for progress in found] == list(range(1, 11))
    assert {progress.total for progress in found} == {10}
    assert [progress.left for progress in found] == [12.0] * 5 + [0.0] * 5
    # a report for each task, whose cells come together
    assert len({id(progress.report) for progress in found}) == 2


def test_finished_tasks_are_not_measured_again(machine):
    for progress in machine.run((PREFILL, DECODE)):
        if progress.cell.variant == VARIANTS[-1]:
            break  # killed, with the first task on disk
    kept = progress.report
    assert {cell.task for cell in kept.cells} == {PREFILL}
    assert todo(kept, VARIANTS, (PREFILL, DECODE)) == [(DECODE, VARIANTS)]
    machine.calls.clear()
    (*_, last) = machine.run((PREFILL, DECODE), report=kept)
    assert {call[1] for call in machine.calls} == {"decode"}
    assert last.report.cells[: len(kept.cells)] == kept.cells
    assert todo(last.report, VARIANTS, (PREFILL, DECODE)) == []


def test_the_whole_model_runs_beside_whatever_is_missing(machine):
    (*_, last) = machine.run(variants=VARIANTS[:2])
    assert todo(last.report, VARIANTS, (PREFILL,)) == [(PREFILL, (WHOLE, *VARIANTS[2:]))]
    assert todo(last.report, VARIANTS[:2], (PREFILL,)) == []
    assert todo(EMPTY, (WHOLE, WHOLE), (PREFILL,)) == [(PREFILL, (WHOLE,))]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "attn last 2: decode 100 x2: out of memory; ask for less"),
        (SurgeonError("it broke"), "attn last 2: decode 100 x2: it broke"),
    ],
)
def test_an_error_names_variant_and_task_and_leaves_what_is_finished(machine, error, words):
    machine.broken = {("attn last 2", "decode"): error}
    going = machine.run((PREFILL, DECODE))
    finished = [next(going) for _ in range(5)]
    with pytest.raises(SurgeonError, match=words) as refusal:
        next(going)
    assert "\n" not in str(refusal.value)
    assert {cell.task for cell in finished[-1].report.cells} == {PREFILL}
    assert len(finished[-1].report.cells) == 5


class Recorded:
    """Steps that remember their prompts; the clock moves with each call."""

    def __init__(self):
        self.seen, self.now = [], 0.0

    def perf_counter(self):
        return self.now

    def prefill(self, ids):
        def step(row):
            self.seen.append(row.tolist())
            self.now += len(self.seen)

        return step

    def decode(self, ids, steps):
        self.seen.append(ids.tolist())

        def step():
            self.now += 1.0 if "rewound" not in self.seen else 0.5

        return step, lambda: self.seen.append("rewound")


@pytest.fixture
def steps(monkeypatch):
    pytest.importorskip("numpy")
    made = Recorded()
    monkeypatch.setattr(loops, "time", made)
    return made


def test_a_share_takes_the_prompts_of_its_numbers(steps):
    task = Task("prefill", 4)
    times = take_times(steps, task, range(2, 5), 9, 100, 1)
    wanted = [loops.prompts(4, 1, 100, number).tolist() for number in range(2, 5)]
    assert steps.seen == [wanted[0], *wanted]
    assert (times.warmup, list(times.counted)) == (1, [2000.0, 3000.0, 4000.0])


def test_decoding_counts_its_second_pass(steps):
    task = Task("decode", 4, 2)
    times = take_times(steps, task, range(3, 4), 2, 100, 1)
    assert steps.seen == [loops.prompts(4, 2, 100, 3).tolist(), "rewound"]
    assert (list(times.first), list(times.counted)) == ([1000.0] * 2, [500.0] * 2)


def test_a_task_at_once_has_all_prompts(steps):
    timing = time_task(steps, Task("prefill", 4), 3, 9, 100)
    assert (timing.count, timing.warmup, timing.first_pass) == (3, WARMUP, None)
    assert timing.median == (WARMUP + 2) * 1000
    assert len(steps.seen) == WARMUP + 3
