"""lm-evaluation-harness: everything that surgeon knows of it.

The harness loads the tasks, makes their prompts and turns answers into scores; which model answers is
not its business. So the prompts are made once, and the scores of every variant by the same code that
scores a model of its own.
"""

import difflib
import io
import logging
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.measure.results import Measure

SEED = 1234
"""The harness's own seed for few-shot examples, numpy and torch."""

BOOTSTRAP = 1000
"""Resamples behind the standard error of a measure that is no mean, such as a perplexity."""

AVERAGE = Measure("average", "Average", "%", True, "mean of the four")


@dataclass(frozen=True)
class Wanted:
    """A task as it was asked for: None for the shots or the metric means the task's own."""

    task: str
    shots: int | None = None
    metric: str | None = None
    label: str | None = None


OPENLLM = (
    Wanted("arc_challenge", 25, "acc_norm", "ARC-Challenge"),
    Wanted("hellaswag", 10, "acc_norm", "HellaSwag"),
    Wanted("truthfulqa_mc2", 0, "acc", "TruthfulQA mc2"),
    Wanted("mmlu", 5, "acc", "MMLU"),
)
"""The Open LLM leaderboard's settings for the four tasks of the paper."""

_FOLDERS = {
    "arc_challenge": "arc",
    "hellaswag": "hellaswag",
    "truthfulqa_mc2": "truthfulqa",
    "mmlu": "mmlu",
}
"""Where the harness keeps those; reading all of its 14,000 task files takes many seconds."""

_SHARES = {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1"}
"""Metrics between 0 and 1, shown in percent."""

_UNITS = {"bits_per_byte": "bits/byte", "perplexity": "", "word_perplexity": "", "byte_perplexity": ""}


@dataclass(frozen=True)
class Column:
    """A measure, and where its value stands in the harness's results: ``results[task][key]``."""

    measure: Measure
    task: str
    key: str
    scale: float

    @property
    def stderr_key(self) -> str:
        """The key of its standard error."""
        metric, _, kind = self.key.partition(",")
        return f"{metric}_stderr,{kind}"


@dataclass
class Tasks:
    """Loaded tasks of the harness, by name, with the groups they were asked for by."""

    columns: tuple[Column, ...]
    average: bool
    limit: int | None
    tasks: dict[str, Any] = field(repr=False)
    groups: dict[str, Any] = field(repr=False)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The columns of a report."""
        own = tuple(column.measure for column in self.columns)
        return (*own, AVERAGE) if self.average else own

    def ask(self) -> list[Any]:
        """Makes the prompts: the harness's ``Instance`` of every request, repeated as the task wants.

        Made once; ``score`` takes answers to these.
        """
        requests = []
        with quiet():
            _seed()
            for name, task in self.tasks.items():
                try:
                    task.build_all_requests(limit=self.limit, rank=0, world_size=1)
                except Exception as error:  # templates and functions of a task, whatever they raise
                    raise SurgeonError(
                        f"task {name}: its prompts cannot be made ({_line(error)})"
                    ) from None
                task.build_all_requests = _made_already
                requests += [one for one in task.instances for _ in range(one.repeats or 1)]
        return requests

    def score(self, answering: Any) -> tuple[dict[str, float], dict[str, float]]:
        """Scores and their standard errors by measure; ``answering`` is an ``LM`` of the harness."""
        import lm_eval

        for task in self.tasks.values():
            for request in task.instances:
                request.resps.clear()
                request.filtered_resps.clear()
        with quiet():
            found = lm_eval.evaluate(
                lm=answering,
                task_dict={"tasks": self.tasks, "groups": self.groups},
                limit=self.limit,
                bootstrap_iters=BOOTSTRAP,
                log_samples=False,
            )
        scores, stderr = {}, {}
        for column in self.columns:
            row = found["results"].get(column.task, {})
            if column.key not in row:
                raise SurgeonError(f"task {column.task}: the harness has no {column.key} for it")
            scores[column.measure.name] = column.scale * float(row[column.key])
            spread = row.get(column.stderr_key)
            if isinstance(spread, int | float):
                stderr[column.measure.name] = column.scale * float(spread)
        if self.average:
            four = [scores[wanted.task] for wanted in OPENLLM]
            scores[AVERAGE.name] = sum(four) / len(four)
        return scores, stderr


def parse_tasks(words: Iterable[str]) -> tuple[Wanted, ...]:
    """``openllm``, or tasks, groups and tags of the harness as NAME or NAME:SHOTS, commas allowed.

    SurgeonError for an empty list, a task that is asked for twice, and shots that are no number.
    """
    wanted: list[Wanted] = []
    for word in (part.strip() for text in words for part in text.split(",")):
        if word == "openllm":
            wanted += OPENLLM
        elif word:
            name, colon, shots = word.partition(":")
            if colon and not shots.isdecimal():
                raise SurgeonError(
                    f"--tasks {word}: {shots!r} is no number of shots; use NAME or NAME:5"
                )
            wanted.append(Wanted(name, int(shots) if colon else None))
    names = [task.task for task in wanted]
    for name in names:
        if names.count(name) > 1:
            raise SurgeonError(f"--tasks: {name} is asked for twice")
    if not names:
        raise SurgeonError("--tasks: names no task; use openllm, or tasks of lm-evaluation-harness")
    return tuple(wanted)


def load_tasks(wanted: Sequence[Wanted], include_path: str | None, limit: int | None) -> Tasks:
    """The tasks with their data; those of ``include_path`` come before the harness's own.

    Raises SurgeonError, one line each: lm-eval is not installed, no such task, data that cannot be had.
    """
    if limit is not None and limit < 1:
        raise SurgeonError(f"--limit {limit}: must be at least 1")
    if include_path is not None and not Path(include_path).is_dir():
        raise SurgeonError(f"--include-path {include_path}: is no folder")
    import_harness()
    manager = _manager([task.task for task in wanted], include_path)
    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    columns: list[Column] = []
    for one in wanted:
        found = _load(manager, one.task)
        for name, task in found["tasks"].items():
            if name in tasks:
                raise SurgeonError(f"--tasks: {name} is asked for twice, once as part of {one.task}")
            _settle(name, task, one.shots)
        tasks |= found["tasks"]
        groups |= found["groups"]
        columns += _columns(one, found)
    average = all(task in wanted for task in OPENLLM)
    return Tasks(tuple(columns), average, limit, tasks, groups)


def import_harness() -> Any:
    """lm_eval, or SurgeonError with the words that install it."""
    try:
        with quiet():
            import datasets
            import lm_eval
            import lm_eval.models.huggingface
            import lm_eval.tasks
    except ImportError as error:
        raise SurgeonError(
            f"tasks need {error.name or 'lm_eval'}, which is not installed; "
            "run: pip install 'surgeon[eval]'"
        ) from None
    datasets.disable_progress_bars()
    return lm_eval


def version() -> str:
    """Which lm-evaluation-harness is installed."""
    from importlib.metadata import version as installed

    return installed("lm_eval")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the harness's logging, bars and prints: below the command line nothing is printed."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    pool = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"  # or resampling forks a process per core
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
        if pool is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = pool


def _made_already(**_: Any) -> None:
    """In place of a task's ``build_all_requests``, which ``evaluate`` calls for every model."""


def _seed() -> None:
    import numpy
    import torch

    random.seed(0)
    numpy.random.seed(SEED)
    torch.manual_seed(SEED)


def _manager(names: Sequence[str], include_path: str | None) -> Any:
    """The smallest index of tasks that has all names; the whole one is slow to make."""
    from lm_eval import tasks as harness

    own = Path(harness.__file__).parent
    mine = [include_path] if include_path else []
    known = [own / _FOLDERS[name] for name in names if name in _FOLDERS]
    with quiet():
        for places in (mine, [*known, *mine]):
            manager = harness.TaskManager(include_defaults=False, include_path=places)
            if set(names) <= set(manager.all_tasks):
                return manager
        manager = harness.TaskManager(include_path=mine)
    for name in names:
        if name not in manager.all_tasks:
            near = difflib.get_close_matches(name, manager.all_tasks, 3)
            hint = (
                f"; did you mean {' or '.join(near)}?" if near else "; see --include-path for your own"
            )
            raise SurgeonError(f"--tasks: lm-evaluation-harness has no task {name!r}{hint}")
    return manager


def _load(manager: Any, name: str) -> Mapping[str, Any]:
    try:
        with quiet():
            found: Mapping[str, Any] = manager.load([name])
    except Exception as error:  # of a task's own code, of the data sets, of the network
        if isinstance(error, ConnectionError | TimeoutError) or _of_the_network(error):
            raise SurgeonError(
                f"task {name}: its data set cannot be fetched ({_line(error)}); without a network, "
                "--include-path DIR takes tasks that read local files"
            ) from None
        raise SurgeonError(f"task {name}: cannot be loaded ({_line(error)})") from None
    for part, task in found["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise SurgeonError(
                f"task {part}: runs code that the model wrote, which surgeon does not do"
            )
        if getattr(task, "MULTIMODAL", False):
            raise SurgeonError(f"task {part}: needs images or sound, which these models do not take")
    return {"tasks": found["tasks"], "groups": found.get("groups", {})}


def _of_the_network(error: BaseException) -> bool:
    homes = ("huggingface_hub", "httpx", "requests", "urllib3", "aiohttp")
    return (
        type(error).__module__.partition(".")[0] in homes
        or type(error).__name__ == "DatasetNotFoundError"
    )


def _settle(name: str, task: Any, shots: int | None) -> None:
    """Fixes what a task leaves open, as the harness's ``simple_evaluate`` does."""
    own = task.get_config("num_fewshot")
    if shots is not None and own == 0 and shots != 0:
        raise SurgeonError(
            f"task {name}: is 0-shot by its own settings, so {shots} shots are not possible"
        )
    if shots is not None or own is None:
        task.set_config(key="num_fewshot", value=shots or 0)
    task.set_fewshot_seed(seed=SEED)


def _columns(wanted: Wanted, found: Mapping[str, Any]) -> Iterator[Column]:
    """What is reported of a task: the wanted metric or all it has; of a group, what it aggregates."""
    group = found["groups"].get(wanted.task)
    if group is not None and group.has_aggregation:
        keys = [
            (one.metric, kind)
            for one in group.aggregate_metric_list
            for kind in one.filter_list
            or sorted({k for t in group.get_all_tasks() for k in _filters(t)})
        ]
        rows = [(wanted.task, group.get_all_tasks()[0], keys)]
    else:
        rows = [
            (name, task, [(metric, kind) for kind in _filters(task) for metric in task.aggregation()])
            for name, task in found["tasks"].items()
        ]
    for name, task, keys in rows:
        chosen = [key for key in keys if wanted.metric in (None, key[0])]
        if not chosen:
            raise SurgeonError(f"task {name}: has no {wanted.metric or 'metric'} to report")
        for metric, kind in chosen:
            yield _column(name, task, metric, kind, alone=len(chosen) == 1, label=wanted.label)


def _column(name: str, task: Any, metric: str, kind: str, alone: bool, label: str | None) -> Column:
    words = metric if kind == "none" else f"{metric} {kind}"
    shares = metric in _SHARES
    shots = f"{task.get_config('num_fewshot')}-shot"
    measure = Measure(
        name=name if alone else f"{name}.{words.replace(' ', '.')}",
        label=label or (name if alone else f"{name} {words}"),
        unit="%" if shares else _UNITS.get(metric, ""),
        higher_is_better=bool(task.higher_is_better().get(metric, True)),
        detail=f"{shots} {words}" if alone else shots,
    )
    return Column(measure, name, f"{metric},{kind}", 100.0 if shares else 1.0)


def _filters(task: Any) -> list[str]:
    return [one.name for one in getattr(task, "_filters", ())] or ["none"]


def _line(error: BaseException) -> str:
    """The first line of an error, or its kind where it has no words."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
