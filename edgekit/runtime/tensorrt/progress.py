"""How far a build is: TensorRT tells of phases within phases, people want one number.

In: the events of an IProgressMonitor.  Out: a text and a share of the whole, which never falls.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgekit.runtime.tensorrt.library import Library

OnProgress = Callable[[str, float], None]
"""Called with what is being done and the share that is done, 0..1."""


@dataclass(slots=True)
class _Phase:
    name: str
    parent: str | None
    step_count: int
    done_count: int = 0


class PhaseTree:
    """Open phases; each is one step of its parent. Thread-safe: builders call from many threads."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._open: dict[str, _Phase] = {}
        self._share = 0.0

    def start(self, name: str, parent: str | None, step_count: int) -> None:
        """A phase of ``step_count`` steps begins, within ``parent``."""
        with self._lock:
            self._open[name] = _Phase(name, parent, max(1, step_count))
        self._tell(name)

    def step(self, name: str, step: int) -> None:
        """Step number ``step`` of it is done."""
        with self._lock:
            phase = self._open.get(name)
            if phase is not None:
                phase.done_count = min(phase.step_count, max(phase.done_count, step + 1))
        self._tell(name)

    def finish(self, name: str) -> None:
        """It is over, also if its steps were not all told."""
        with self._lock:
            phase = self._open.pop(name, None)
        if phase is not None and phase.parent is None:
            self._share = 1.0
            self._tell(name)

    def _tell(self, name: str) -> None:
        with self._lock:
            self._share = max(self._share, self._share_of_whole())
            share = self._share
        self._on_progress(name, share)

    def _share_of_whole(self) -> float:
        roots = [phase for phase in self._open.values() if phase.parent is None]
        return self._share_of(roots[0], depth=0) if roots else self._share

    def _share_of(self, phase: _Phase, depth: int) -> float:
        inner = [one for one in self._open.values() if one.parent == phase.name]
        done = float(phase.done_count)
        if inner and depth < 16:  # names may repeat: a phase within itself must not loop
            done += max(self._share_of(one, depth + 1) for one in inner)
        return min(1.0, done / phase.step_count)


def make_monitor(library: Library, on_progress: OnProgress) -> Any:
    """An IProgressMonitor that feeds ``on_progress``; None if this TensorRT has none."""
    if not library.has_progress:
        return None
    base: Any = library.module.IProgressMonitor
    tree = PhaseTree(on_progress)

    class _Monitor(base):  # type: ignore[misc]  # a base known at run time only
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Called by TensorRT."""
            tree.start(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Called by TensorRT. Returns: True, to go on."""
            tree.step(phase_name, step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            """Called by TensorRT."""
            tree.finish(phase_name)

    return _Monitor()
