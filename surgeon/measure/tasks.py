"""Scores on tasks of lm-evaluation-harness, for many cuts of one model at once.

Its prompts are made once. What they ask of the model by probabilities becomes items that all cuts
share; what has to be generated is generated cut by cut. The harness then scores the answers of each cut
as if they came from a model of its own.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.measure.grid import Variant
from surgeon.measure.harness import Tasks, load_tasks, parse_tasks, quiet, version
from surgeon.measure.memory import out_of_memory
from surgeon.measure.opened import Opened
from surgeon.measure.prepared import Prepared, Scores
from surgeon.measure.scoring import Item, Score


@dataclass(frozen=True)
class TaskSettings:
    """Which tasks, as on the command line: ``openllm``, names of the harness, NAME:SHOTS.

    ``limit`` takes the first documents of each task only; ``include_path`` is a folder of the user's
    own tasks, which come before the harness's.
    """

    tasks: tuple[str, ...] = ("openllm",)
    limit: int | None = None
    include_path: str | None = None

    def prepare(self, opened: Opened, notify: Callable[[str], None] = lambda words: None) -> Prepared:
        """Loads the tasks and makes their prompts; SurgeonError where that cannot be."""
        wanted = parse_tasks(self.tasks)
        tasks = load_tasks(wanted, self.include_path, self.limit)
        requests = _Requests(tasks, opened)
        return Prepared(
            items=requests.items,
            measures=tasks.measures,
            settings={
                "tasks": [word for text in self.tasks for word in text.split(",")],
                "limit": self.limit,
                "include_path": self.include_path,
                "lm_eval": version(),
            },
            identity={
                "tasks": [[one.task, one.shots] for one in wanted],
                "limit": self.limit,
                "lm_eval": version(),
            },
            summarize=requests.summarize,
        )


class _Requests:
    """What loaded tasks ask of one model: ``items`` to score, and what follows from their scores."""

    def __init__(self, tasks: Tasks, opened: Opened) -> None:
        from transformers import AutoConfig

        from surgeon.measure.lm import SCORED, Encoder, key

        self._tasks, self._opened = tasks, opened
        requests = tasks.ask()
        with quiet():
            config = AutoConfig.from_pretrained(str(opened.folder), trust_remote_code=False)
            self._encoder = Encoder(config, opened.tokenizer, lambda: opened.network.model)
        # by what is asked: whether it is a single pair, and where its items begin and end
        self._asked: dict[Hashable, tuple[bool, int, int]] = {}
        items: list[Item] = []
        for request in requests:
            if request.request_type not in SCORED or key(request) in self._asked:
                continue
            start = len(items)
            items += _items(request, self._encoder)
            self._asked[key(request)] = request.request_type == "loglikelihood", start, len(items)
        self.items = tuple(items)

    def summarize(self, variant: Variant, scores: Sequence[Score]) -> Scores:
        """The results of one cut from the scores of all items, with their standard errors."""
        from surgeon.measure.lm import Answers
        from surgeon.measure.virtual import virtual_cut

        found: dict[Hashable, Any] = {}
        for what, (single, start, end) in self._asked.items():
            own = scores[start:end]
            found[what] = tuple(own[0]) if single else sum(score.logprob for score in own)

        def generate(requests: list[Any]) -> list[str]:
            try:
                with virtual_cut(self._opened.network.model, variant.removed):
                    made: list[str] = self._encoder.generate_until(requests)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                raise SurgeonError(
                    f"{variant.name}: out of memory in generating, one text at a time; "
                    "use another --dtype or another --device"
                ) from None
            return made

        return Scores(*self._tasks.score(Answers(found, generate)))


def _items(request: Any, encoder: Any) -> Iterator[Item]:
    try:
        pairs = encoder.pairs(request)
    except IndexError:  # HFLM looks at the first token of an answer without a context
        pairs = [((), ())]
    for context, continuation in pairs:
        if not context or not continuation:
            what = "is longer than the model can read" if continuation else "has no token"
            raise SurgeonError(
                f"task {request.task_name}: the answer to score in question {request.doc_id} {what}"
            )
        yield Item(tuple(context), tuple(continuation))
