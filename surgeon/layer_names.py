"""Names of layers in quantization settings: what they are called after a plan."""

import re
from typing import Any

from surgeon.errors import SurgeonError
from surgeon.plan import Plan, Sublayer
from surgeon.structure import Structure

_LAYER = re.compile(r"(?<![a-z_])layers(\\?\.)(\d+)(?=\\?\.|$)(?P<rest>.*)", re.ASCII | re.DOTALL)


def renumber(node: Any, plan: Plan, structure: Structure, where: str) -> Any:
    """Quantization settings whose layer names follow the plan: renumbered, or gone.

    Raises SurgeonError for a pattern that picks layers by their digits ("layers.[6-9]."), if numbers
    change: what it would pick then is not what it was meant for.
    """
    if isinstance(node, dict):
        return {
            new: renumber(value, plan, structure, where)
            for key, value in node.items()
            for new in _rename(key, plan, structure, where)
        }
    if isinstance(node, list):
        return [
            new
            for item in node
            for new in (
                _rename(item, plan, structure, where)
                if isinstance(item, str)
                else [renumber(item, plan, structure, where)]
            )
        ]
    return node


_ANY = re.compile(r"\[0-9\][*+]|\[0-9\]\{1,\d*\}")
"""Any number whatever: no digits that mean a layer."""

_DIGITS = re.compile(r"(?<![a-z_])layers\\?\.[^.]*\d|\*.*\.[(\[]?\d[^.a-z]*\\?\.", re.ASCII)


def _rename(name: str, plan: Plan, structure: Structure, where: str) -> list[str]:
    """What a module name (or pattern) with a layer number in it is called after the plan.

    Empty when its sublayer is gone. A name of a whole layer becomes that of every block with a part
    of the layer.
    """
    match = _LAYER.search(name)
    if match is None:
        if _DIGITS.search(_ANY.sub("*", name)) and not _keeps_numbers(plan):
            raise SurgeonError(
                f"{where}: {name!r} picks layers by their digits, which change; "
                "write the names of the layers one by one"
            )
        return [name]
    dot, layer, rest = match[1], int(match[2]), match["rest"]
    parts = {sub: structure.family.part(sub) for sub in Sublayer}
    inner = rest.replace("\\.", ".").lstrip(".") + "."
    named = [sub for sub, part in parts.items() if inner.startswith(part.prefixes)]
    out = []
    for number, block in enumerate(plan.blocks):
        found = [sub for sub in named or Sublayer if block.source(sub) == layer]
        foreign = [sub for sub in Sublayer if block.source(sub) not in (None, layer)]
        head = f"{name[: match.start()]}layers{dot}{number}"
        if found and foreign and not named:
            # half of the block is another layer's, which the name does not mean
            out += [f"{head}{dot}{parts[sub].module}{rest}" for sub in found]
        elif found:
            out.append(head + rest)
    return out


def _keeps_numbers(plan: Plan) -> bool:
    return all(
        block.source(sub) in (None, number)
        for number, block in enumerate(plan.blocks)
        for sub in Sublayer
    )
