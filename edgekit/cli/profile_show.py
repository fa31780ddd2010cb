"""``edgekit profile show``: one device in numbers, and as a roofline with a model under it."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import parse_inputs
from edgekit.cli.profile_text import conditions_text, energy_text, session_memory_text
from edgekit.cli.render import byte_progress, print_json, say, show_facts, show_table, warn
from edgekit.errors import ConfigError
from edgekit.profiler.library import FoundProfile, find_profile, stale_reason
from edgekit.profiler.roofline import Dot, choose_ceiling, dots_of, model_precision
from edgekit.runtime.ort import runtime_name
from edgekit.spec.profile import Ceiling, DeviceProfile, Precision
from edgekit.spec.workload import Workload
from edgekit.units import format_bytes, format_count, format_duration


@click.command("show")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw it: .png, .pdf or .svg.")
@click.option("--force", is_flag=True, help="Let --plot replace a file.")
@click.option("--model", type=click.Path(path_type=Path), help="Put this model under the roofs.")
@click.option("--input", "inputs", multiple=True, help="NAME=1x3x416x416 for open dimensions.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), help="Of the model.")
@click.option("--provider", help="Which roof it runs under: cpu, gpu, cuda, ...; default cpu.")
def command(
    name: str,
    as_json: bool,
    plot: Path | None,
    force: bool,
    model: Path | None,
    inputs: tuple[str, ...],
    precision: Precision | None,
    provider: str | None,
) -> None:
    """Show the device profile NAME (a name of edgekit profile list, or a .toml file)."""
    found = find_profile(name)
    if plot is not None:
        _check_plot(plot, force)
    if inputs and model is None:
        raise ConfigError("--input names a shape of no model", hint="add --model model.onnx")
    with byte_progress(enabled=not as_json and model is not None) as progress:
        progress("load", 0, 0)
        workload = _workload(model, inputs) if model else None
    ceiling = choose_ceiling(
        found.profile,
        precision=precision,
        provider=provider,
        preferred=model_precision(workload) if workload else "fp32",
    )
    dots = _dots(workload, found.profile, ceiling) if workload else ()
    if as_json:
        print_json(_as_json(found, ceiling, workload, dots))
    else:
        _show_profile(found)
        if workload:
            _show_dots(workload, ceiling, dots)
    if plot is not None:
        _draw(found.profile, ceiling, dots, workload.model if workload else "", plot, force)
        warn(f"drawn: {plot}")


def _check_plot(plot: Path, force: bool) -> None:
    from edgekit.profiler.roofline_plot import check_target  # matplotlib, only where it is used

    check_target(plot, overwrite=force)


def _draw(
    profile: DeviceProfile,
    ceiling: Ceiling,
    dots: tuple[Dot, ...],
    model: str,
    plot: Path,
    force: bool,
) -> None:
    from edgekit.profiler.roofline_plot import draw_roofline, save_figure

    save_figure(draw_roofline(profile, ceiling, dots, model=model), plot, overwrite=force)


def _workload(model: Path, inputs: tuple[str, ...]) -> Workload:
    from edgekit.builder.load import load_model  # onnx, only where a model is given
    from edgekit.builder.workload import workload_of

    return workload_of(load_model(model, input_shapes=parse_inputs(inputs)))


def _dots(workload: Workload, profile: DeviceProfile, ceiling: Ceiling) -> tuple[Dot, ...]:
    from edgekit.planner.dag import Dag
    from edgekit.planner.kernel_groups import inner_names

    return dots_of(workload, profile, ceiling, inner=inner_names(Dag(workload)))


def _as_json(
    found: FoundProfile, ceiling: Ceiling, workload: Workload | None, dots: tuple[Dot, ...]
) -> dict[str, Any]:
    profile = found.profile
    document: dict[str, Any] = {
        "path": str(found.path),
        "stale": stale_reason(profile, runtime_name()),
        "profile": profile,
        "ridges": [
            {
                "precision": one.precision,
                "provider": one.provider,
                "flop_per_s": one.flop_per_s,
                "ridge_flop_per_byte": profile.ridge_flop_per_byte(one),
            }
            for one in profile.ceiling
        ],
    }
    if workload:
        document["model"] = {
            "name": workload.model,
            "sha256": workload.model_sha256,
            "precision": ceiling.precision,
            "provider": ceiling.provider,
            "roofline_s": sum(dot.roofline_s for dot in dots),
            "kernels": [
                {
                    "name": dot.name,
                    "kind": dot.kind,
                    "work_flop": dot.work_flop,
                    "traffic_bytes": dot.traffic_bytes,
                    "roofline_s": dot.roofline_s,
                    "memory_bound": dot.is_memory_bound,
                }
                for dot in dots
            ],
        }
    return document


def _show_profile(found: FoundProfile) -> None:
    profile = found.profile
    if reason := stale_reason(profile, runtime_name()):
        warn(f"stale: {reason}")
    show_facts(
        {
            "profile": f"{profile.name} ({found.path})",
            "source": ", ".join(filter(None, (profile.source, profile.date, profile.runtime))),
            "reference": profile.reference,
            "processor": profile.processor,
            "threads": f"{profile.threads}",
            "memory": profile.memory,
            "bandwidth": _bandwidths(profile),
            "overheads": _overheads(profile),
            "kernels": _kernels(profile),
            "prediction error": _error(profile),
            "session memory": session_memory_text(profile),
            "energy": energy_text(profile),
            "conditions": conditions_text(profile),
        }
    )
    for table in profile.under:
        fused = ", ".join(table.fused) or "nothing"
        say(
            f"{table.provider} {table.precision}: {len(table.kernel)} kernels timed by "
            f"{table.runtime}; launched as one: {fused}"
        )
    if profile.note:
        say(f"note: {' '.join(profile.note.split())}")
    rows = [
        (one.precision, one.provider, one.compute, one.sustained or "not measured",
         f"{profile.ridge_flop_per_byte(one):.3g} flop/byte")
        for one in profile.ceiling
    ]  # fmt: skip
    say("")
    show_table(
        "ceilings", ("precision", "provider", "compute", "sustained", "ridge point"), rows, left=2
    )


def _bandwidths(profile: DeviceProfile) -> str:
    parts = {
        "": profile.memory_bandwidth,
        " sustained": profile.memory_bandwidth_sustained,
        " in the cache": profile.cache_bandwidth,
        " copying tensors": profile.copy_bandwidth,
    }
    return ", ".join(f"{text}{what}" for what, text in parts.items() if text)


def _overheads(profile: DeviceProfile) -> str:
    if profile.source == "datasheet":
        return "not measured"
    return f"{profile.launch_overhead} per kernel, {profile.session_overhead} per inference"


def _kernels(profile: DeviceProfile) -> str:
    if not profile.kernel:
        return "not measured"
    fused = f"; launched as one: {', '.join(profile.fused)}" if profile.fused else ""
    return f"{len(profile.kernel)} timed{fused}"


def _error(profile: DeviceProfile) -> str:
    if (error := profile.error) is None:
        return "not measured"
    return (
        f"{error.mape_percent:.1f} % on average, {error.within_10_percent:.0f} % of shards within "
        f"10 %, worst {error.worst_percent:.0f} % ({error.shard_count} shards of "
        f"{error.model_count} models, each predicted without itself)"
    )


def _show_dots(workload: Workload, ceiling: Ceiling, dots: tuple[Dot, ...]) -> None:
    """Work, traffic and roofline time of the model by kind of kernel."""
    kinds: dict[str, list[Dot]] = defaultdict(list)
    for dot in dots:
        kinds[dot.kind].append(dot)
    total_s = sum(dot.roofline_s for dot in dots)
    work_flop = max(1, sum(dot.work_flop for dot in dots))
    ordered = sorted(kinds.items(), key=lambda item: -sum(dot.roofline_s for dot in item[1]))
    rows = [
        (
            kind,
            f"{len(members)}",
            f"{sum(dot.work_flop for dot in members) / work_flop:.1%}",
            format_bytes(sum(dot.traffic_bytes for dot in members)),
            f"{sum(dot.is_memory_bound for dot in members)}",
            format_duration(sum(dot.roofline_s for dot in members)),
        )
        for kind, members in ordered
    ]
    say("")
    title = f"{workload.model} under the {ceiling.precision} roof of {ceiling.provider}"
    columns = ("kernels", "count", "work", "traffic", "memory-bound", "roofline time")
    show_table(title, columns, rows)
    say(
        f"{format_count(work_flop, 'flop')} in {format_duration(total_s)} at best, as far as the "
        "roofs tell: what the hardware allows, not a prediction."
    )
