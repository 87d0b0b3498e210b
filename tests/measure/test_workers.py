"""A sweep on workers of Ray: the scores of one process, bit by bit; clear words when one is lost."""

import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import surgeon
from surgeon.errors import SurgeonError
from surgeon.measure import workers
from surgeon.measure.gather import Engine, gather
from surgeon.measure.grid import WHOLE, grid
from surgeon.measure.opened import Opened
from surgeon.measure.scoring import Item, make_parts

if find_spec("ray") is None:
    pytest.skip("ray is not installed", allow_module_level=True)
ray = workers.import_ray()  # before transformers does, or it writes a token into the home folder
torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

VARIANTS = grid(12, ["attn", "mlp"], ["25%", "33%"])


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray for all tests: it takes many seconds to start, on a busy machine too many."""
    torch.set_num_threads(1)
    with ExitStack() as stack:
        try:
            stack.enter_context(workers._cluster(None, 2, 0))
        except SurgeonError as error:
            pytest.skip(str(error))
        yield


@pytest.fixture
def opened() -> Opened:
    return Opened.open("sample", "cpu")


def items(count: int) -> list[Item]:
    rng = random.Random(0)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 2048) for _ in range(length))

    return [Item(ids(rng.randrange(20, 200)), ids(rng.randrange(1, 9))) for _ in range(count)]


def test_two_workers_score_as_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole sweep, with its journal; nothing is left to do for a second one."""
    monkeypatch.setattr("surgeon.measure.gather.make_parts", partial(make_parts, tokens=512))
    text = tmp_path / "text.txt"
    text.write_text("The wind came over the hill and the children ran home to their mother. " * 80)
    settings = surgeon.TextSettings((str(text),), window=256)
    asked: list[int] = []

    def engine(opened: Opened) -> Engine:
        work = workers.ray_engine(opened, "sample", 2)

        def counting(jobs: Any, advance: Any) -> Any:
            asked.append(len(jobs))
            return work(jobs, advance)

        return counting

    grown = {"drops": ["attn", "mlp"], "fractions": ["25%", "33%"], "device": "cpu"}
    alone = surgeon.sweep("sample", settings, tmp_path / "alone", **grown)
    seen: list[tuple[int, int]] = []
    shared = surgeon.sweep(
        "sample",
        settings,
        tmp_path / "shared",
        **grown,
        engine=engine,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [cell.scores for cell in shared.cells] == [cell.scores for cell in alone.cells]
    assert asked[0] >= 4  # parts, so that both workers had some
    assert seen[-1][0] == seen[-1][1] > 0
    again = surgeon.sweep("sample", settings, tmp_path / "shared", **grown, engine=engine)
    assert [cell.scores for cell in again.cells] == [cell.scores for cell in alone.cells]
    assert asked[1] == 0


def test_a_worker_with_another_model(opened: Opened, refuse: Callable[..., None]) -> None:
    """Which a folder of the same name on another machine could hold."""
    changed = Opened.open("sample", "cpu")
    changed.__dict__["fingerprint"] = "0" * 64
    engine = workers.ray_engine(changed, "sample", 1)
    refuse(partial(gather, items(2), [WHOLE], engine), "another model on the machine of a worker")


class Dying(workers.Worker):
    """Dies at its first job, as a process does that runs out of memory."""

    def score(self, job: Any) -> Any:
        os._exit(1)


def test_a_worker_that_dies(
    opened: Opened, refuse: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(workers, "Worker", Dying)
    engine = workers.ray_engine(opened, "sample", 2)
    refuse(partial(gather, items(4), [WHOLE], engine), "a worker died", "run the same again to go on")


def test_what_is_refused_before_anything_starts(opened: Opened, refuse: Callable[..., None]) -> None:
    refuse(partial(workers.ray_engine, opened, "sample", 0), "--workers 0 is too few")
    refuse(partial(workers._knock, "127.0.0.1:1"), "--ray-address 127.0.0.1:1", "nobody answers")
    workers._knock("auto")  # is Ray's to find


def test_a_machine_too_busy_for_ray_to_start(refuse: Callable[..., None]) -> None:
    """Ray ends its own start after 30 s with an error that has no class of its own."""
    slow = [Exception("The current node timed out during startup. This could happen")] * 2
    busy = Mock(**{"init.side_effect": [*slow, None]})
    workers._start(busy, {}, None)
    assert busy.init.call_count == 3
    never = Mock(**{"init.side_effect": slow[0]})
    refuse(partial(workers._start, never, {}, None), "--workers: Ray cannot be reached (The current")
    assert never.init.call_count == 3
    far = Mock(**{"init.side_effect": ConnectionError("gone")})
    refuse(partial(workers._start, far, {}, "a:1"), "--ray-address a:1: Ray cannot be reached (gone)")
    assert far.init.call_count == 1


def test_without_ray(
    opened: Opened, refuse: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    refuse(partial(workers.ray_engine, opened, "sample", 2), "pip install 'surgeon[workers]'")
