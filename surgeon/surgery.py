"""The operation: open, plan, lay out, check, write. ``surgeon.prune`` and ``surgeon prune``."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from surgeon.accounting import Costs, costs
from surgeon.card import model_card
from surgeon.checkpoint.layout import Layout, make_layout
from surgeon.checkpoint.source import Checkpoint, expand, open_checkpoint, read_json
from surgeon.checkpoint.staging import SURGERY, check_output
from surgeon.checkpoint.writer import Written, write
from surgeon.companions import companion_names, companions, license_lines
from surgeon.config import pruned_config
from surgeon.errors import SurgeonError
from surgeon.families import NAS_MODEL_TYPE
from surgeon.jsonfile import encode_json
from surgeon.plan import Plan
from surgeon.rule import Choice, Rule
from surgeon.runtimes import Runtime, runtimes
from surgeon.structure import Structure
from surgeon.units import parse_size
from surgeon.version import __version__

if TYPE_CHECKING:
    from surgeon.measure.similarity import Similarity
    from surgeon.onnx.export import ExportReport

NAS_CODE = ("configuration_surgeon.py", "modeling_surgeon.py")
OWN_CODE = ("configuration_blocks.py", "modeling_blocks.py")


@dataclass(frozen=True)
class PruneReport:
    """What a cut did, or with ``dry_run`` would do.

    ``why`` explains the choice of sublayers, a line a step, where the words of the call do not.
    ``seconds`` covers all of the writing; ``shared_bytes`` are those that the filesystem shares with
    the source instead of copying. Of the weight files of a model of the Hub, ``fetched_bytes`` came
    over the network and ``not_fetched_bytes`` never did. ``files`` are the names in the output folder,
    those of the graph excepted, which ``onnx`` reports if it was asked for.
    """

    source: str
    output: str
    plan: Plan
    words: str
    why: tuple[str, ...]
    dry_run: bool
    before: Costs
    after: Costs
    blocks: int
    dialect: str
    seconds: float
    bytes_written: int
    shared_bytes: int
    fetched_bytes: int
    not_fetched_bytes: int
    files: tuple[str, ...]
    runtimes: tuple[Runtime, ...]
    onnx: "ExportReport | None"


@dataclass(frozen=True)
class Operation:
    """A cut that has passed every check and is ready to be written."""

    checkpoint: Checkpoint
    plan: Plan
    why: tuple[str, ...]
    structure: Structure
    layout: Layout
    config: dict[str, Any]
    portable: bool
    max_shard_size: int

    def view(self) -> Checkpoint:
        """The outcome as a checkpoint over the files of the source, of which nothing is written.

        Its tensors have their new names and their old places. For measurements; not for ``portable``
        cuts, which have tensors that no file holds.
        """
        tensors = {
            new.name: replace(new.source, name=new.name)
            for new in self.layout.tensors
            if new.source is not None
        }
        return replace(self.checkpoint, config=self.config, structure=self.structure, tensors=tensors)


def prune(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    plan: Plan | Rule | None = None,
    *,
    drop: str = "attn",
    last: int | None = None,
    fraction: str | float | None = None,
    layers: str | Iterable[int] | None = None,
    count: int | None = None,
    by: "str | os.PathLike[str] | Similarity | None" = None,
    keep_last: bool = False,
    portable: bool = False,
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    onnx: bool = False,
    dry_run: bool = False,
    announce: Callable[[Operation], None] = lambda operation: None,
    advance: Callable[[int], None] = lambda count: None,
) -> PruneReport:
    """Cuts sublayers out of a checkpoint and writes what is left to ``output``.

    ``model`` is a folder, ORG/NAME[@REVISION] of the Hub, an fsspec URL or ``"sample"``. What to
    remove is either a ``plan``, a ``Rule`` or its words: ``drop`` ("attn", "mlp", "block") with one of
    ``last``, ``fraction``, ``layers``, or ``count`` and ``by``, the path of a similarity.json.
    ``onnx`` exports the result too, as ``export_onnx`` does by default.
    ``announce`` is called once all is checked, before the first byte is written; ``advance`` with
    the number of bytes that just got their place. No tensor is loaded.

    Raises SurgeonError, and writes nothing, when model, plan, output or disk do not allow it. Only an
    export can fail later, for want of room for converted weights: the cut is then there without it.
    """
    shard_size = parse_size(max_shard_size)
    checkpoint = open_checkpoint(model)
    choice = _choose(plan, Rule(drop, last, fraction, layers, count, by, keep_last), checkpoint)
    operation = operate(checkpoint, choice, portable, shard_size)
    target = expand(output)
    check_output(target, checkpoint.source.folder, checkpoint.shards, overwrite)
    if onnx:
        from surgeon.onnx.export import check_exportable

        check_exportable(operation.structure, operation.config, f"{target}/config.json")
    extras = _extras(operation)
    announce(operation)
    written = Written(operation.layout.size, 0.0, 0, 0)
    if not dry_run:
        written = write(checkpoint.source, operation.layout, extras, target, overwrite, advance)
    exported = None
    if onnx and not dry_run:
        from surgeon.onnx.export import export_onnx

        exported = export_onnx(target)
    before, after = operation_costs(operation)
    return PruneReport(
        source=checkpoint.source.name,
        output=str(target),
        plan=operation.plan,
        words=operation.plan.describe(),
        why=operation.why,
        dry_run=dry_run,
        before=before,
        after=after,
        blocks=operation.structure.num_layers,
        dialect=operation.config["model_type"],
        seconds=written.seconds,
        bytes_written=written.size,
        shared_bytes=written.shared,
        fetched_bytes=written.fetched,
        not_fetched_bytes=sum(checkpoint.shards.values()) - written.fetched if written.fetched else 0,
        files=tuple(sorted([*(file.name for file in operation.layout.files), *extras])),
        runtimes=runtimes(operation.structure, operation.config),
        onnx=exported,
    )


def _choose(plan: Plan | Rule | None, words: Rule, checkpoint: Checkpoint) -> Choice:
    if plan is None:
        return words.of(checkpoint)
    if words.given:
        raise SurgeonError("plan: give exactly one of a Plan and the words drop, last, fraction, ...")
    return plan.of(checkpoint) if isinstance(plan, Rule) else Choice(plan)


def operate(checkpoint: Checkpoint, choice: Choice, portable: bool, max_shard_size: int) -> Operation:
    """The checked operation of a plan on an open checkpoint; SurgeonError if they do not fit."""
    structure, plan = checkpoint.structure, choice.plan
    if plan.num_layers != structure.num_layers:
        raise SurgeonError(
            f"plan: made for {plan.num_layers} layers, but {checkpoint.source.name} has "
            f"{structure.num_layers}"
        )
    plan = Plan(plan.num_layers, plan.removed, structure.absent)
    after = structure.cut(plan, portable)
    return Operation(
        checkpoint=checkpoint,
        plan=plan,
        why=choice.why,
        structure=after,
        layout=make_layout(checkpoint, plan, after, max_shard_size),
        config=pruned_config(checkpoint.config, plan, after, checkpoint.source.where("config.json")),
        portable=portable,
        max_shard_size=max_shard_size,
    )


def operation_costs(operation: Operation) -> tuple[Costs, Costs]:
    """Costs before and after."""
    checkpoint = operation.checkpoint
    disk = sum(checkpoint.shards.values())
    before = costs(checkpoint.structure, checkpoint.tensors.values(), disk)
    layout = operation.layout
    return before, costs(operation.structure, layout.tensors, layout.size)


def remote_code(structure: Structure) -> dict[str, bytes]:
    """The .py files that a folder of incomplete blocks needs, by name."""
    if structure.plain:
        return {}
    room = files("surgeon") / "remote_code"
    names = NAS_CODE if structure.dialect == NAS_MODEL_TYPE else OWN_CODE
    return {name: (room / name).read_bytes() for name in names}


def _extras(operation: Operation) -> dict[str, bytes]:
    """Every file of the output folder beside the weights, by name."""
    source = operation.checkpoint.source
    before, after = operation_costs(operation)
    card = model_card(
        source.name,
        source.revision,
        operation.plan,
        operation.why,
        operation.structure,
        before,
        after,
        runtimes(operation.structure, operation.config),
        license_files=[n for n in companion_names(source) if n.lower().startswith(("licen", "notice"))],
        license_lines=license_lines(source),
        zeros=any(
            new.source is None or new.shape != new.source.shape for new in operation.layout.tensors
        ),
    )
    return {
        **companions(source, operation.plan, operation.structure),
        **dict(operation.layout.extras()),
        **remote_code(operation.structure),
        "config.json": encode_json(operation.config),
        SURGERY: encode_json(_record(operation)),
        "README.md": card.encode(),
    }


def _record(operation: Operation) -> dict[str, Any]:
    """surgery.json: all it takes to make the same cut again, and to know the source when one sees it.

    A source that was itself cut has its own record inside.
    """
    checkpoint = operation.checkpoint
    record: dict[str, Any] = {
        "surgeon": __version__,
        "source": {
            "model": checkpoint.source.name,
            "revision": checkpoint.source.revision,
            "fingerprint": checkpoint.fingerprint,
        },
        "plan": operation.plan.to_json(),
        "words": operation.plan.describe(),
        **({"why": list(operation.why)} if operation.why else {}),
        "portable": operation.portable,
        "max_shard_size": operation.max_shard_size,
    }
    if SURGERY in checkpoint.source.files():
        record["source"]["surgery"] = read_json(checkpoint.source, SURGERY)
    return record
