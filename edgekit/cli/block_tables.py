"""How ``edgekit inspect`` shows re-parameterizable blocks: as JSON, and as tables.

In:  what was found in a model, and what each strategy would cost.  Out: plain values; text.
"""

from collections import Counter
from typing import Any

from edgekit.builder.fold.onnx_blocks import CONCAT, Block, NearMiss
from edgekit.builder.fold.onnx_cost import Cost, FoldCosts, ModelCosts
from edgekit.builder.fold.onnx_find import Findings
from edgekit.cli.render import say, show_table
from edgekit.units import format_bytes, format_count

_MOST_ROWS = 40
_MOST_MISSES = 5


def blocks_as_json(findings: Findings, costs: ModelCosts | None) -> dict[str, Any]:
    """The parts ``blocks``, ``near_misses`` and ``strategies`` of ``inspect --json``."""
    return {
        "blocks": [
            _block(index, block, costs.blocks[index] if costs else None)
            for index, block in enumerate(findings.blocks)
        ],
        "near_misses": [
            {"name": miss.name, "output": miss.output, "reason": miss.reason}
            for miss in findings.near_misses
        ],
        "strategies": _strategies(costs.model) if costs and findings.blocks else [],
    }


def show_blocks(findings: Findings, costs: ModelCosts | None) -> None:
    """The blocks of a model, what each strategy costs, and what only looks like a block."""
    if findings.blocks:
        say("")
        _show_list(findings, costs)
        if costs is not None:
            say("")
            _show_strategies(costs.model)
    if findings.near_misses:
        say("")
        _show_misses(findings.near_misses)


def _block(index: int, block: Block, costs: FoldCosts | None) -> dict[str, Any]:
    geometry = block.geometry
    return {
        "index": index,
        "name": block.name,
        "kind": block.kind,
        "inputs": list(block.inputs),
        "output": block.output,
        "added": list(block.added),
        "in_channels": block.in_count,
        "out_channels": block.out_count,
        "kernel": geometry.kernel,
        "stride": geometry.stride,
        "groups": geometry.groups,
        "branches": [
            {
                "kind": branch.kind,
                "is_main": branch is block.main,
                "kernel": branch.kernel.geometry.kernel,
                "dilation": branch.kernel.geometry.dilation,
                "groups": branch.kernel.geometry.groups,
                "in_channels": branch.kernel.in_count,
                "out_channels": len(branch.kernel.bias),
                "operators": list(branch.nodes),
            }
            for branch in block.branches
        ],
        "note": block.note,
        "unfolded": _cost(costs.unfolded) if costs else None,
        "strategies": _strategies(costs) if costs else [],
    }


def _strategies(costs: FoldCosts) -> list[dict[str, Any]]:
    return [{"strategy": str(strategy), **_cost(cost)} for strategy, cost in costs.by_strategy]


def _cost(cost: Cost) -> dict[str, Any]:
    return {
        "work_flop": cost.work_flop,
        "traffic_bytes": cost.traffic_bytes,
        "intensity_flop_per_byte": cost.intensity_flop_per_byte,
        "operators": cost.op_count,
        "parameters": cost.parameter_count,
    }


def _show_list(findings: Findings, costs: ModelCosts | None) -> None:
    rows = []
    for index, block in enumerate(findings.blocks[:_MOST_ROWS]):
        cells = costs.blocks[index] if costs else None
        costs_by = [cells.unfolded, *(cost for _, cost in cells.by_strategy)] if cells else []
        rows.append(
            (
                f"{index}",
                block.name,
                f"{_branches(block)}{' *' if block.note else ''}",
                f"{block.in_count} to {block.out_count}",
                f"{block.geometry.groups}",
                *_works(costs_by),
            )
        )
    columns = ("", "block", "branches", "channels", "groups", "work", "S3", "all live")
    show_table("re-parameterizable blocks, in the order of the model", columns, rows, left=3)
    if len(findings.blocks) > _MOST_ROWS:
        say(f"{_MOST_ROWS} of {len(findings.blocks)} blocks shown; --json lists all")
    for block in findings.blocks:
        if block.note:
            say(f"* {block.name}: left out of the block: {block.note}")


def _works(costs: list[Cost]) -> list[str]:
    """Work as it is, with everything folded, and with every branch live."""
    chosen = [costs[0], costs[1], costs[-1]] if costs else []
    return [format_count(cost.work_flop, "flop") for cost in chosen] or [""] * 3


def _branches(block: Block) -> str:
    """``3x3 + 1x1 + identity``; of several kernels of one kind, ``4 x 3x3``."""
    kinds = [block.main.kind if one.kind == "copy" else one.kind for one in block.branches]
    if block.kind == CONCAT:
        return f"concat of {_counted(kinds[:-1])}, then 1x1"
    return _counted(kinds)


def _counted(kinds: list[str]) -> str:
    counts = Counter(kinds)
    return " + ".join(f"{n} x {kind}" if n > 1 else kind for kind, n in counts.items())


def _show_strategies(costs: FoldCosts) -> None:
    named = [("as it is", costs.unfolded)]
    named += [(str(strategy), cost) for strategy, cost in costs.by_strategy]
    rows = [
        (
            name,
            f"{cost.op_count}",
            format_count(cost.parameter_count),
            format_count(cost.work_flop, "flop"),
            format_bytes(cost.traffic_bytes),
            f"{cost.intensity_flop_per_byte:.2f}",
        )
        for name, cost in named
    ]
    columns = ("all blocks", "operators", "parameters", "work", "traffic", "flop/byte")
    show_table("the whole model under one strategy for all blocks", columns, rows)


def _show_misses(misses: tuple[NearMiss, ...]) -> None:
    for miss in misses[:_MOST_MISSES]:
        say(f"{miss.name} looks like a block, but cannot be folded: {miss.reason}")
    if len(misses) > _MOST_MISSES:
        say(f"and {len(misses) - _MOST_MISSES} more sums like that; --json lists all")
