"""How long one shard takes in each precision: timed here, or predicted from its device's profile.

In:  the float shard, the same shard in int8 and fp16, their inputs.  Out: ShardTimes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from edgekit.builder.quantize.half import half
from edgekit.builder.quantize.pieces import Chain, Frame, Model
from edgekit.builder.quantize.recipes import Recipe, is_timed_here
from edgekit.builder.quantize.shard_report import ShardTimes
from edgekit.builder.quantize.sizes import session_of
from edgekit.builder.race import is_faster, race
from edgekit.bundle.chain import advance
from edgekit.errors import ModelError, PlanError
from edgekit.planner.cuts import partition
from edgekit.planner.predict import Predictor, ShardEstimate
from edgekit.runtime.session import Session
from edgekit.spec.profile import DeviceProfile
from edgekit.spec.tensors import Array, TensorSpec

_INTEGER_KERNEL = "QLinearConv"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """A device that a shard is for."""

    recipe: Recipe
    profile: DeviceProfile | None
    provider: str = "cpu"


class _Bound:
    """A session with inputs of its own: precisions differ in what they read."""

    def __init__(self, session: Session, inputs: Frame) -> None:
        self._session = session
        self._given = {spec.name: inputs[spec.name] for spec in session.inputs}

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._session.outputs

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return self._session.run(self._given)


def entering(
    shards: Sequence[onnx.ModelProto], leaving: Sequence[Sequence[str]], frame: Frame
) -> list[Frame]:
    """What enters each shard of a chain on one frame."""
    found = [frame]
    for shard, names in zip(shards[:-1], leaving, strict=False):
        found.append(advance(session_of(shard), found[-1], names))
    return found


def times_of(
    index: int,
    model: Model,
    floats: Sequence[onnx.ModelProto],
    chain: Chain,
    target: Target,
    given: Mapping[str, Sequence[Frame]],
    keep_float: Sequence[str],
    *,
    race_s: float,
) -> ShardTimes:
    """Shard ``index`` in fp32, in fp16 and, if ``chain`` has it so, in int8.

    given: what enters each shard, under "float" in the float chain, under "chain" in ``chain``.
    """
    has_int8 = chain.precisions[index] == "int8"
    if not is_timed_here(target.recipe):
        return _predicted(index, model, chain, target) if has_int8 else ShardTimes(how="unknown")
    sessions: dict[str, Session] = {
        "fp32": _Bound(session_of(floats[index]), given["float"][index])
    }
    try:
        lowered = session_of(half(floats[index], keep_float))
        sessions["fp16"] = _Bound(lowered, given["float"][index])
    except ModelError:
        pass  # no fp16 form: then there is no time of it either
    if has_int8:
        sessions["int8"] = _Bound(session_of(chain.shards[index]), given["chain"][index])
    times_s = dict(zip(sessions, race(list(sessions.values()), {}, budget_s=race_s), strict=True))
    fp32_s, fp16_s, int8_s = times_s["fp32"], times_s.get("fp16"), times_s.get("int8")
    return ShardTimes(
        how="measured",
        fp32_s=fp32_s,
        fp16_s=fp16_s,
        int8_s=int8_s,
        is_int8_faster=int8_s is not None and is_faster(int8_s, fp32_s),
        is_fp16_faster=fp16_s is not None and is_faster(fp16_s, fp32_s),
        is_int8_faster_than_fp16=int8_s is not None and (fp16_s is None or int8_s <= fp16_s),
    )


def _predicted(index: int, model: Model, chain: Chain, target: Target) -> ShardTimes:
    """From the profile's kernel table, if it holds integer kernels."""
    profile = target.profile
    if profile is None or not any(one.key.startswith(_INTEGER_KERNEL) for one in profile.kernel):
        return ShardTimes(how="unknown")
    ops = partition(model.workload, model.cuts)[index]
    lowered_ops = partition(chain.workload, chain.cuts)[index]
    try:
        before = Predictor(profile, precision="fp32", provider=target.provider)
        after = Predictor(profile, precision="int8", provider=target.provider)
        estimates: tuple[ShardEstimate, ShardEstimate] = (
            before.predict(model.workload, ops),
            after.predict(chain.workload, lowered_ops),
        )
    except PlanError:
        return ShardTimes(how="unknown")
    return ShardTimes(
        how="predicted",
        fp32_s=estimates[0].time_s,
        int8_s=estimates[1].time_s,
        is_int8_faster=estimates[1].high_s < estimates[0].low_s,
    )
