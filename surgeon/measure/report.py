"""A report as a document: findings, charts, tables, what it is of and how to repeat it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from surgeon.measure.charts import chart
from surgeon.measure.document import Charts, Code, Document, Facts, Part, Section, Text
from surgeon.measure.findings import findings, headline
from surgeon.measure.paper import PAPER, inconsistencies
from surgeon.measure.repeat import repeat_command
from surgeon.measure.results import Report
from surgeon.measure.tables import beside, compared, cut_tables, main_measure, overview, unit_words
from surgeon.units import format_count


def document(report: Report, paper: Report | None = None, model: str | None = None) -> Document:
    """The report to be read.

    ``paper`` is ``surgeon.measure.paper.quality`` to stand beside it, ``model`` the word by which the
    model was asked for.
    """
    subject = report.subject
    measures = compared(report)
    label = measures[0].label if len(measures) == 1 else "scores"
    revision = f" at {subject.revision}" if subject.revision else ""
    ran = " on ".join(word for word in (subject.dtype, subject.device) if word)
    lead = (
        f"{subject.model}{revision}: {format_count(subject.parameters)} parameters in "
        f"{subject.num_layers} layers{f', measured in {ran}' if ran else ''}. Nothing was retrained."
    )
    sections = [
        Section("Result", tuple(_result(report))),
        Section("Tables", tuple(cut_tables(report))),
    ]
    if paper:
        if table := beside(report, paper):
            sections.append(Section("Here and in the paper", (table,)))
        sections.append(_of_the_paper(paper))
    sections += [
        Section("Measures", (Facts(tuple(_measures(report))),)),
        Section("Settings", (Facts(tuple(facts(report.settings))),)),
        Section("Versions", (Facts(_versions(report)),)),
        Section("To repeat", (Code(repeat_command(report, model)),)),
    ]
    return Document(
        about=f"{subject.model}: {label} after cuts",
        headline=headline(report),
        lead=lead,
        sections=tuple(section for section in sections if section.parts),
    )


def facts(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Settings as names and words; those that are None or empty are left out."""
    for name, value in settings.items():
        words = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            yield from facts(value, f"{words}, ")
        elif isinstance(value, list | tuple):
            if value:
                yield words, ", ".join(map(str, value))
        elif isinstance(value, bool):
            yield words, "yes" if value else "no"
        elif value is not None and value != "":
            yield words, str(value)


def _result(report: Report) -> Iterator[Part]:
    said = tuple(findings(report))
    if said:
        yield Text(said, listed=len(said) > 1)
    shown = compared(report)
    for measure in shown:
        if drawn := chart(report, measure):
            yield drawn
        if table := overview(report, measure):
            yield table
    if shown[0].name == "average":
        single = [measure for measure in report.measures if measure.unit == "%"]
        drawn_too = tuple(filter(None, (chart(report, m) for m in single if m not in shown)))
        if drawn_too:
            yield Charts(drawn_too, "The single scores, drawn as their average above.")


def _measures(report: Report) -> Iterator[tuple[str, str]]:
    for measure in report.measures:
        better = "higher is better" if measure.higher_is_better else "lower is better"
        unit = unit_words(measure)
        words = (measure.detail, unit if unit != measure.label.lower() else "", better)
        yield measure.label, ", ".join(filter(None, words))


def _versions(report: Report) -> tuple[tuple[str, str], ...]:
    subject = report.subject
    return (*subject.versions.items(), ("fingerprint of the model", subject.fingerprint or "none"))


def _of_the_paper(paper: Report) -> Section:
    words = (
        f"The numbers of {PAPER} for {paper.subject.model}, as printed there. They were not measured "
        "here, and with other models, tasks or text they are not comparable digit by digit.",
    )
    parts: list[Part] = [Text(words)]
    if drawn := chart(paper, main_measure(paper)):
        parts.append(replace(drawn, name=f"paper-{drawn.name}"))
    if table := overview(paper):
        parts.append(table)
    parts += cut_tables(paper)
    parts.append(Text(("Where the numbers that are printed there contradict each other:",)))
    parts.append(Text(inconsistencies(), listed=True))
    return Section(f"The paper's numbers for {paper.subject.model}", tuple(parts), quoted=True)
