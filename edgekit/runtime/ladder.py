"""A shard that has several ways to run: the best one serves, and the next when that fails.

In: ways in order ("rungs"), each loaded only when it is needed, and a proof that each must pass.
Out: a Session that stays one and the same for whoever runs it. Later, a better session may be put
on top (an engine that took minutes to build), between two frames; when it fails, the rung below
answers the same frame, and the reason is kept.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from edgekit.errors import ConfigError, DeviceError, EdgeKitError
from edgekit.runtime.session import Session
from edgekit.spec.tensors import Array, TensorSpec

logger = logging.getLogger(__name__)

Prove = Callable[[Session], None]
"""Raises EdgeKitError if a session does not compute what it should."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to run a shard."""

    name: str
    """For people: "onnxruntime cuda"."""
    load: Callable[[], Session]


class LadderSession:
    """The best of some sessions that works. Thread-safe."""

    def __init__(self, rungs: Sequence[Rung], *, prove: Prove) -> None:
        """Load the first rung that loads and passes the proof.

        Raises: EdgeKitError of the last rung if none does.
        """
        self._rungs, self._prove = list(rungs), prove
        self._lock = threading.Lock()
        self._reasons: list[str] = []
        self._top: tuple[str, Session, Callable[[], None]] | None = None
        self._name, self._session = self._next()
        self.inputs: tuple[TensorSpec, ...] = self._session.inputs
        self.outputs: tuple[TensorSpec, ...] = self._session.outputs

    @property
    def name(self) -> str:
        """What runs the shard now."""
        top = self._top
        return top[0] if top is not None else self._name

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why better ways do not run it."""
        return tuple(self._reasons)

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        """One inference, by whatever is best and works.

        Raises: DeviceError if nothing is left that works, or the inputs fit nothing.
        """
        with self._lock:
            if self._top is not None:
                name, session, close = self._top
                try:
                    return session.run(inputs)
                except DeviceError as error:
                    self._blame(name, error, inputs)
                    self._top = None
                    close()
            while True:
                try:
                    return self._session.run(inputs)
                except DeviceError as error:
                    self._blame(self._name, error, inputs)
                    if not self._rungs:
                        raise
                    self._name, self._session = self._next()

    def put_on_top(self, name: str, session: Session, *, close: Callable[[], None]) -> None:
        """From the next frame on ``session`` serves. ``close`` is called when it does no more.

        Raises: ConfigError if it takes or gives other tensors.
        """
        for kind, have, want in (
            ("takes", session.inputs, self.inputs),
            ("gives", session.outputs, self.outputs),
        ):
            if sorted(map(str, have)) != sorted(map(str, want)):
                raise ConfigError(
                    f"{name} {kind} {', '.join(map(str, have))} where the shard has "
                    f"{', '.join(map(str, want))}",
                    hint="build the bundle again",
                )
        with self._lock:
            self._top = (name, session, close)

    def close(self) -> None:
        """Take down what was put on top; the rung below would serve on."""
        with self._lock:
            top, self._top = self._top, None
        if top is not None:
            top[2]()

    def _next(self) -> tuple[str, Session]:
        while True:
            rung = self._rungs.pop(0)
            try:
                session = rung.load()
                self._prove(session)
            except EdgeKitError as error:
                if not self._rungs:
                    raise
                self._reasons.append(f"{rung.name}: {error.what}")
                logger.warning("%s does not run this shard: %s", rung.name, error)
            else:
                return rung.name, session

    def _blame(self, name: str, error: DeviceError, inputs: dict[str, Array]) -> None:
        """Remember why. Raises: the error itself if the inputs are at fault, not what runs them."""
        if any(not _takes(spec, inputs.get(spec.name)) for spec in self.inputs):
            raise error
        self._reasons.append(f"{name}: {error.what}")
        logger.error("%s failed while serving: %s", name, error)


def _takes(spec: TensorSpec, array: Array | None) -> bool:
    """A free dimension shows as 0 and takes any size."""
    with suppress(ValueError):
        return (
            array is not None
            and array.dtype.name == spec.dtype
            and all(want in (0, got) for got, want in zip(array.shape, spec.shape, strict=True))
        )
    return False
