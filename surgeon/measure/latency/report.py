"""The report to be read: what was found, the tables, and how the figures were taken."""

import shlex
from collections.abc import Iterator, Sequence

from surgeon.measure.charts import chart
from surgeon.measure.document import Chart, Code, Document, Facts, Part, Section, Text
from surgeon.measure.grid import WHOLE, Variant
from surgeon.measure.latency.tables import (
    figures_table,
    layout_tables,
    sizes_table,
    start,
)
from surgeon.measure.latency.values import Bench
from surgeon.measure.paper import PAPER
from surgeon.measure.repeat import cut_options
from surgeon.measure.report import facts
from surgeon.measure.results import Cell, Measure, Report
from surgeon.measure.tables import DROP_NAMES
from surgeon.units import format_count


def document(report: Bench) -> Document:
    """The report as sections; it may be unfinished."""
    subject = report.subject
    revision = f" at {subject.revision}" if subject.revision else ""
    lead = (
        f"{subject.model}{revision}: {format_count(subject.parameters)} parameters in "
        f"{subject.num_layers} layers, {subject.dtype}, in {report.settings['runtime']} "
        f"({report.settings['mode']}) on {subject.device}."
    )
    layouts, again = tuple(layout_tables(report)), repeat_commands(report)
    quoted = any("paper" in table.columns for table in layouts)
    sections = (
        Section("Result", (Text(tuple(_findings(report)), listed=True), *_charts(report))),
        Section("Tables", (*((Text((_SOURCE,)),) if quoted else ()), *layouts)),
        Section("Every figure", tuple(figures_table(report, task) for task in report.tasks)),
        Section("Sizes", (sizes_table(report),)),
        Section(
            "How it was measured", (Text(tuple(_method(report))), Facts(tuple(facts(report.settings))))
        ),
        Section("Versions", (Facts(tuple(subject.versions.items())),)),
        Section("To repeat", (Code(again),) if again else ()),
    )
    return Document(
        about=f"{subject.model}: time and memory after cuts",
        headline=headline(report),
        lead=lead,
        sections=tuple(section for section in sections if _filled(section)),
    )


_SOURCE = f"The paper is {PAPER}; its Tables 7-10 give one new token for Llama-2-7B."


def _filled(section: Section) -> bool:
    def filled(part: Part) -> bool:
        return not isinstance(part, Text) or bool(part.paragraphs)

    return any(map(filled, section.parts))


def _charts(report: Bench) -> Iterator[Chart]:
    medians = as_report(report)
    for measure in medians.measures:
        if drawn := chart(medians, measure):
            yield drawn


def headline(report: Bench) -> str:
    """What the largest cuts gain in the first task, in one sentence."""
    if not report.tasks:
        return f"{report.subject.model}: nothing is measured yet"
    task = report.tasks[0]
    words = start(task.words)
    cuts = [v for v in report.variants if v.drop and report.find(v, task)]
    most = max((v.count for v in cuts), default=0)
    largest = {v.drop: v for v in reversed(cuts) if v.count == most}
    gains = {
        name: gain
        for drop, name in DROP_NAMES.items()
        if drop in largest and (gain := report.improvement(largest[drop], task)) is not None
    }
    drift = report.drift(task) or 0.0
    if gains and all(abs(gain) <= drift for gain in gains.values()):
        return f"{words}: cuts change less than the {drift:.1f} % that the whole model itself varies"
    gains = {name: gain for name, gain in gains.items() if abs(gain) > drift}
    if gains:
        (name, gain), *others = gains.items()
        layers = f"in {most} of {report.subject.num_layers} layers"
        told = [(gain, f"without {name} {layers}"), *((g, f"without {n}") for n, g in others)]
        return f"{words}: {_gains(told)}"
    base = report.baseline(task)
    return words if base is None else f"{words} takes {base:.2f} ms in {report.subject.model}"


def as_report(report: Bench) -> Report:
    """The medians as scores, for the charts."""

    def cell(variant: Variant) -> Cell:
        scores = {}
        for task in report.tasks:
            found = report.find(variant, task)
            if found:
                base = report.baseline(task) if variant == WHOLE else None
                scores[task.name] = found[-1].timing.median if base is None else base
        return Cell(variant, scores)

    measures = tuple(Measure(task.name, start(task.words), "ms", False) for task in report.tasks)
    return Report(report.subject, {}, measures, tuple(map(cell, report.variants)))


def _gains(told: Sequence[tuple[float, str]]) -> str:
    """ "15.4 % faster without attention, 12.0 % without MLP": the word again where it changes."""
    parts, before = [], ""
    for percent, how in told:
        word = "faster" if percent >= 0 else "slower"
        parts.append(f"{abs(percent):.1f} % {'' if word == before else f'{word} '}{how}")
        before = word
    return ", ".join(parts)


def _findings(report: Bench) -> Iterator[str]:
    """For each task, the whole model's time and what the largest cuts gain."""
    for task in report.tasks:
        base = report.baseline(task)
        if base is None:
            continue
        cuts = [v for v in report.variants if v != WHOLE and report.find(v, task)]
        most = max((v.count for v in cuts), default=0)
        parts, smallest = [], float("inf")
        for keep_last, words in ((False, ""), (True, ", with the last layer kept")):
            gains = [
                (gain, f"without {DROP_NAMES[v.drop]}" if v.drop else f"after {v.name}")
                for v in cuts
                if (v.count, v.keep_last) == (most, keep_last)
                and (gain := report.improvement(v, task)) is not None
            ]
            smallest = min([smallest, *(abs(gain) for gain, _ in gains)])
            if gains:
                parts.append(f"{_gains(gains)}{words}")
        layers = f"{most} layer{'s' if most > 1 else ''}"
        changes = f"; in {layers}, {'; '.join(parts)}" if parts else ""
        yield f"{start(task.words)}: {base:.2f} ms{changes}."
        drift = report.drift(task)
        if parts and drift is not None and drift >= smallest:
            yield (
                f"{start(task.words)}: the whole model's own turns differ by {drift:.1f} %, so changes "
                "below that say nothing; measure again on a quiet machine."
            )


def _method(report: Bench) -> Iterator[str]:
    settings = report.settings
    kinds = {task.kind for task in report.tasks}
    rounds = settings.get("rounds")
    if "prefill" in kinds:
        shared = f", shared out to {rounds} rounds" if rounds else ""
        later = f" in the first round and {settings['later_warmup']} in each other" if rounds else ""
        yield (
            f"After a prompt: {settings['sequences']} prompts of random tokens, one by one{shared}, "
            f"after {settings['warmup']} runs of warm-up{later}."
        )
    if "decode" in kinds:
        each = f" in each of {settings['decode_rounds']} rounds" if rounds else ""
        yield (
            f"Decoding: {settings['tokens']} tokens over the cache of a random prompt{each}. The "
            "second pass over the same lengths counts, the first is the warm-up."
        )
    yield "Each time includes the choice of the token and its way to the host."
    if rounds:
        yield (
            "In each round the whole model and all cuts ran one after the other, in every other round "
            "backward, so that whatever slowed the machine for a while slowed them alike. A task that "
            "ran out of time has fewer rounds, and every variant as many; the column times tells."
        )
    yield (
        "Cuts are compared by medians with the mean of the whole model's turns, "
        + ("each of them every other round." if rounds else "one before the cuts and one after them.")
    )
    if rounds:
        yield (
            "Eager mode is bound by the processor, which other programs may use too: the column "
            "fastest is nearest to what the machine can do alone."
        )


def repeat_commands(report: Bench) -> str:
    """The commands that measure the same, a line each; none for plans that no option says."""
    subject, settings = report.subject, report.settings
    revision = f"@{subject.revision}" if subject.revision else ""
    model = ["--shape", subject.model] if settings["shape"] else [f"{subject.model}{revision}"]
    lengths = [str(task.length) for task in report.tasks if task.kind == "prefill"]
    decode = [f"{task.length}x{task.batch}" for task in report.tasks if task.kind == "decode"]
    words = ["--runtime", settings["runtime"]]
    words += ["--lengths", ",".join(lengths) or "none", "--decode", ",".join(decode) or "none"]
    words += ["--sequences", str(settings["sequences"]), "--tokens", str(settings["tokens"])]
    words += ["--dtype", subject.dtype, "--device", settings["device"]]
    if settings["device"] == "cuda" and settings.get("cuda_graph") is False:
        words.append("--no-cuda-graph")
    if settings.get("threads"):
        words += ["--threads", str(settings["threads"])]
    cuts = cut_options(report.variants)
    return "\n".join(shlex.join(["surgeon", "bench", *model, *cut, *words]) for cut in cuts)
