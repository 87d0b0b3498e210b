"""What ``eval`` and ``sweep`` measure, from the flags that they share."""

from collections.abc import Sequence

from surgeon.errors import SurgeonError
from surgeon.measure.prepared import Settings
from surgeon.measure.tasks import TaskSettings
from surgeon.measure.text import TextSettings


def wanted(
    text: Sequence[str] | None,
    window: int | None,
    stride: int | None,
    characters: int | None,
    windows: int | None,
    tasks: Sequence[str] | None,
    limit: int | None,
    include_path: str | None,
) -> list[Settings]:
    """Texts, tasks or both; SurgeonError for neither, and for flags of what is not measured."""
    found: list[Settings] = []
    if text:
        found.append(TextSettings(tuple(text), window, stride, characters, windows))
    if tasks:
        found.append(TaskSettings(tuple(tasks), limit, include_path))
    if not found:
        raise SurgeonError("nothing to measure: give --text FILE or --tasks LIST, or both")
    idle = {
        "--window, --stride, --characters, --windows": not text
        and (window, stride, characters, windows) != (None,) * 4,
        "--limit, --include-path": not tasks and (limit, include_path) != (None, None),
    }
    for flags, given in idle.items():
        if given:
            raise SurgeonError(
                f"{flags}: say how {'tasks' if text else 'texts'} are measured; give those, too"
            )
    return found
