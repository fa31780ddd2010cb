"""The only place that prints: sentences, tables, JSON, progress.

In: values.  Out: text on standard output; progress and warnings on standard error.
SI becomes ms, MB and fps here. Progress is silent where nobody watches.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from edgekit.spec.base import to_json

if TYPE_CHECKING:  # `edgekit doctor` prints where numpy, which these import, may be broken
    from edgekit.fleet.collect import Summary
    from edgekit.spec.messages import HopTime

ShowProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
_PIPE_WIDTH = 200
"""Columns where the output is no terminal: a file or a pager has room."""


def say(text: str) -> None:
    """One line for people."""
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """One line on standard error, also where standard output is JSON."""
    print(text, file=sys.stderr)


def print_json(value: Any) -> None:
    """A value, spec or plain, as JSON on standard output and nothing else."""
    sys.stdout.write(to_json(msgspec.to_builtins(value)).decode())


def show_facts(facts: Mapping[str, str]) -> None:
    """Names and values in two columns."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        say(f"{name:<{width}}  {value}")


def show_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1
) -> None:
    """A table; all but the first ``left`` columns are numbers, aligned to the right."""
    table = Table(title=Text(title), title_justify="left", box=None, header_style="bold")
    for index, name in enumerate(columns):
        is_text = index < left
        table.add_column(
            name, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _console().print(table)


@contextmanager
def byte_progress(*, enabled: bool) -> Iterator[ShowProgress]:
    """A progress bar on standard error while inside; silent if not ``enabled`` or no terminal."""
    if not enabled or not sys.stderr.isatty():
        yield lambda text, done, total: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda text, done, total: bar.update(
            task, description=text, completed=done, total=total or None
        )


def render_summary(summary: "Summary") -> None:
    """What became of a stream, for people."""
    dropped = ", ".join(f"{count} {reason}" for reason, count in summary.frames_dropped.items())
    latency = summary.latency_ms
    show_facts(
        {
            "model": summary.model,
            "source": summary.source,
            "cut": " | ".join(",".join(names) for names in summary.cut) or "none",
            "frames": f"{summary.frames_captured} captured, {summary.frames_answered} answered",
            "dropped": dropped or "none",
            "rate": f"{summary.fps:.1f} answers/s",
            "latency": f"p50 {latency.p50:.1f}, p95 {latency.p95:.1f}, p99 {latency.p99:.1f} ms",
        }
    )
    rows = [
        (f"shard {stage.shard} on {stage.device}", "", f"{stage.ms:.2f}", "")
        for stage in summary.stages
    ]
    rows += [
        (f"hop {hop.source} to {hop.target}", f"{hop.bytes}", f"{hop.ms:.2f}", _coding(hop))
        for hop in summary.hops
    ]
    show_table("where the time goes", ("stage or hop", "bytes", "ms", "coding ms"), rows)


def _coding(hop: "HopTime") -> str:
    """At the sender and at the receiver."""
    return f"{hop.encode_ms:.2f} + {hop.decode_ms:.2f}"


def _console() -> Console:
    """Made at each call: standard output may have been replaced (tests, pipes)."""
    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
