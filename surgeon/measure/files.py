"""The REPORT folder: the same report as JSON, Markdown, one HTML page and figures."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.jsonfile import encode_json
from surgeon.measure.document import Document
from surgeon.measure.page import html_page
from surgeon.measure.page.svg import svg_file
from surgeon.measure.plots import chart_figure
from surgeon.measure.report import document
from surgeon.measure.results import Report
from surgeon.measure.written import markdown

REPORT = "report.json"


def write_report(
    report: Report, folder: str | Path, paper: Report | None = None, model: str | None = None
) -> tuple[str, ...]:
    """Writes report.json, report.md, index.html and the figures; the names of the files, in order.

    Each file is replaced whole. ``paper`` (``surgeon.measure.paper.quality``) stands beside, marked as
    the paper's; ``model`` is the model as it was asked for, to repeat it. A report that is not
    finished is written as far as it is. SurgeonError if the folder cannot be written.
    """
    said = document(report, paper, model)
    files = {REPORT: encode_json(_finite(report.to_json())), **document_files(said)}
    for name, data in files.items():
        write_file(Path(folder) / name, data)
    return tuple(files)


def document_files(said: Document) -> dict[str, bytes]:
    """The files that people read: report.md, index.html, a figure for each chart.

    Figures are SVG, light or dark as their reader is, and PNG for papers where matplotlib is installed.
    """
    files = {"report.md": markdown(said).encode(), "index.html": html_page(said).encode()}
    for chart in said.charts():
        files[f"{chart.name}.svg"] = svg_file(chart).encode()
        with suppress(SurgeonError):  # after hours of measuring, no reason to fail
            files[f"{chart.name}.png"] = chart_figure(chart)["png"]
    return files


def read_report(folder: str | Path) -> Report:
    """The report of a folder, or of a report.json; SurgeonError where there is none."""
    path = Path(folder)
    if path.is_dir():
        path /= REPORT
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise SurgeonError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise SurgeonError(f"{path}: is not JSON; measure anew") from None
    if not isinstance(data, dict):
        raise SurgeonError(f"{path}: is not a report of surgeon; measure anew")
    return Report.from_json(data, str(path))


def write_file(path: Path, data: bytes) -> None:
    """Writes a file beside its place and renames it, so that a kill leaves the old or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise SurgeonError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with suppress(OSError):  # gone to its place, unless something failed
            os.unlink(beside)


def _finite(value: Any) -> Any:
    """NaN and infinity, which JSON does not have, as null: not finished, as far as readers know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
