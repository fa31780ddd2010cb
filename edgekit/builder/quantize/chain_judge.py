"""What a chain of lowered shards loses against the float model, as its devices would compute it.

In:  the float model, the recipe of each shard, frames, a held-out set, chains.  Out: accuracy
and signal to noise.
"""

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np

from edgekit.builder.load import LoadedModel
from edgekit.builder.probe import seeded_inputs
from edgekit.builder.quantize.chain_session import ChainSession
from edgekit.builder.quantize.loss import decibels
from edgekit.builder.quantize.pieces import Chain, Frame, leaving_of
from edgekit.builder.quantize.recipes import Recipe
from edgekit.builder.quantize.score import AccuracyDrop, EvaluationSet
from edgekit.builder.quantize.sizes import session_of
from edgekit.builder.quantize.targets import level_here
from edgekit.runtime.session import Session
from edgekit.spec.agent_config import Optimization
from edgekit.transport.codecs import make_codec

_JUDGED_FRAMES = 6
_SEEDS = range(5)
ShowStep = Callable[[str, int, int], None]


class ChainJudge:
    """Compares chains of one model with that model in float."""

    def __init__(
        self,
        model: LoadedModel,
        recipes: tuple[Recipe, ...],
        frames: Sequence[Frame],
        held_out: EvaluationSet | None,
        progress: ShowStep,
    ) -> None:
        self._inputs = model.inputs
        self._recipes, self._held_out, self._progress = recipes, held_out, progress
        self._frames = frames[:: max(1, len(frames) // _JUDGED_FRAMES)][:_JUDGED_FRAMES]
        self._before = session_of(model.proto)

    def is_exact_here(self, chain: Chain) -> bool:
        """Whether this machine's integer kernels compute what those of the devices do."""
        return "none" not in self._levels(chain)

    def drop(self, chain: Chain) -> AccuracyDrop | None:
        """Of the whole chain, codecs included; None if nothing can be lost, or nothing is known."""
        is_float = all(one == "fp32" for one in chain.precisions)
        is_exact = is_float and all(one.is_lossless for one in chain.shipped.codecs)
        if self._held_out is None or is_exact:
            return None
        return self._held_out.compare(
            self._before, self._session(chain), lambda done: self._progress("score", done, 0)
        )

    def noise(self, chain: Chain) -> float:
        """Of the worst output without codecs, over its signal: on random inputs, or on frames."""
        after = self._session(chain, coded=False)
        random = [seeded_inputs(self._inputs, seed) for seed in _SEEDS]
        return max(
            sqrt(noise / signal) if signal else 0.0
            for frames in (random, self._frames)
            for signal, noise in self._energies(after, frames).values()
        )

    def fidelity_db(self, chain: Chain) -> dict[str, float]:
        """Signal to noise of each output with codecs, on the frames."""
        found = self._energies(self._session(chain), self._frames)
        return {name: decibels(signal, noise) for name, (signal, noise) in found.items()}

    def _energies(self, after: Session, frames: Sequence[Frame]) -> dict[str, tuple[float, float]]:
        """Of each output and of its errors, over all frames."""
        energies: dict[str, tuple[float, float]] = {}
        for frame in frames:
            want, got = self._before.run(frame), after.run(frame)
            for name, value in want.items():
                exact = value.astype(np.float64)
                signal, noise = energies.get(name, (0.0, 0.0))
                energies[name] = (
                    signal + float((exact**2).sum()),
                    noise + float(((exact - got[name]) ** 2).sum()),
                )
        return energies

    def _levels(self, chain: Chain) -> list[Optimization]:
        """At which each shard gives here what it gives on its device."""
        return [
            level_here(recipe) if precision == "int8" else "all"
            for recipe, precision in zip(self._recipes, chain.precisions, strict=True)
        ]

    def _session(self, chain: Chain, *, coded: bool = True) -> Session:
        shipped = chain.shipped
        return ChainSession(
            [
                session_of(shard, level)
                for shard, level in zip(shipped.shards, self._levels(chain), strict=True)
            ],
            leaving_of(chain, shipped.cuts),
            [make_codec(one) if coded and not one.is_lossless else None for one in shipped.codecs],
            inputs=chain.whole.inputs,
            outputs=chain.whole.outputs,
        )
