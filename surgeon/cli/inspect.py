"""surgeon inspect"""

from typing import TYPE_CHECKING

import typer

from surgeon.cli.options import AsJson, Model

if TYPE_CHECKING:
    from surgeon.runtimes import Runtime


def inspect(model: Model, as_json: AsJson = False) -> None:
    """Show what a checkpoint is: layers, sizes, where it was cut from, what loads it."""
    from surgeon.cli.render import console, print_json, print_table
    from surgeon.inspection import inspect as run
    from surgeon.plan import format_layers
    from surgeon.units import format_count, format_size

    found = run(model)
    if as_json:
        print_json(found)
        return
    both = sum(a and m for a, m in zip(found.attention, found.mlp, strict=True))
    dtypes = ", ".join(f"{dtype} {format_size(size)}" for dtype, size in found.dtypes.items())
    shards = f"{len(found.shards)} file{'s' if len(found.shards) > 1 else ''}"
    rows = [
        ("family", f"{found.family}, config dialect {found.dialect}"),
        ("blocks", f"{found.layers}, of which {both} whole"),
        ("attention", _strip(found.attention)),
        ("MLP", _strip(found.mlp)),
        (
            "widths",
            f"hidden {found.hidden_size}, MLP {found.intermediate_size}, {found.heads} heads and "
            f"{found.kv_heads} KV heads of {found.head_dim}, vocabulary {found.vocab_size}"
            f"{', tied embeddings' if found.tied else ''}",
        ),
        (
            "parameters",
            format_count(found.costs.parameters) + (" stored (quantized)" if found.quantized else ""),
        ),
        ("weights", f"{format_size(found.costs.disk_bytes)} in {shards}; {dtypes}"),
        ("read per token", format_size(found.costs.weight_bytes_per_token)),
        ("KV cache per token", format_size(found.costs.kv_bytes_per_token)),
        ("cut from", _origin(found.surgery)),
    ]
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(*row)
    console().print(found.model, style="bold")
    console().print(table)
    for name, flags in (("attention", found.attention), ("MLP", found.mlp)):
        gone = [number for number, there in enumerate(flags) if not there]
        if gone:
            typer.echo(f"blocks without {name}: {format_layers(gone)}")
    print_table(
        ("runtime", "loads", "note", "basis"),
        [(r.name, _loads(r), r.note, r.basis) for r in found.runtimes],
        left=4,
    )


def _loads(runtime: "Runtime") -> str:
    """Whether it loads, or with what is in the note alone."""
    if not runtime.loads:
        return "NO"
    return "needs" if runtime.note else "yes"


def _strip(flags: tuple[bool, ...]) -> str:
    return "".join("■" if flag else "·" for flag in flags)


def _origin(surgery: dict[str, object] | None) -> str:
    if not surgery:
        return "nothing; an uncut model"
    source = surgery.get("source")
    if not isinstance(source, dict):
        return "unknown; its surgery.json names no source"
    at = f" at {source['revision']}" if source.get("revision") else ""
    return f"{source.get('model')}{at}, {surgery.get('words')}"
