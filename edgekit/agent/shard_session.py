"""Choose what runs a shard on this board, and load it.

In: a placement, its files in the store, [runtime] of agent.toml.  Out: a ShardSession: something
that serves at once, with an engine on its way where the bundle has a recipe for one.

The order: a TensorRT engine when it is built and right; else ONNX Runtime with CUDA where the
bundle was made for TensorRT and CUDA starts; else ONNX Runtime on the CPU.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec

from edgekit.agent.engine import EngineSupervisor
from edgekit.agent.store import Store
from edgekit.bundle.golden import golden_path
from edgekit.errors import ConfigError, DeviceError
from edgekit.runtime.dilated import DilatedSession
from edgekit.runtime.ladder import LadderSession, Rung
from edgekit.runtime.ort import OrtSession, available_providers
from edgekit.runtime.provider_check import check_provider
from edgekit.runtime.session import Session
from edgekit.runtime.tensorrt import EngineJob
from edgekit.spec.agent_config import Provider, RuntimeConfig
from edgekit.spec.base import parse_json
from edgekit.spec.engine import EngineRecipe
from edgekit.spec.messages import Announcement, EngineTelemetry
from edgekit.spec.profile import Precision

logger = logging.getLogger(__name__)

LoadSession = Callable[[Path, RuntimeConfig], Session]
"""Load an ONNX file under ``config.provider``, which is a name of ONNX Runtime's."""
Prove = Callable[[Session, Precision], None]
"""Raises EdgeKitError if a session does not compute what it should, at that precision."""
MakeSupervisor = Callable[..., EngineSupervisor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSession:
    """What runs a shard now, and what may run it soon."""

    ladder: LadderSession
    engine: EngineSupervisor | None = None
    objection: str = ""
    """Why no engine is built although one was asked for; empty if none was, or it is."""

    def start(self) -> None:
        """Begin to get the engine, if there is to be one."""
        if self.engine is not None:
            self.engine.start()

    def close(self) -> None:
        """Stop building, give the GPU back."""
        if self.engine is not None:
            self.engine.close()

    @property
    def runs_on(self) -> str:
        """What runs the shard now."""
        return self.ladder.name

    def telemetry(self) -> EngineTelemetry | None:
        """How far the engine is; None if there is to be none."""
        if self.engine is not None:
            return self.engine.telemetry()
        return EngineTelemetry(state="failed", problem=self.objection) if self.objection else None

    def problems(self) -> tuple[str, ...]:
        """Why something slower than meant runs the shard, in sentences."""
        said = self.telemetry()
        if said is not None and said.state == "serving":
            return ()
        engine = said.problem if said is not None else ""
        reasons = [reason for reason in self.ladder.reasons if reason != engine]
        found = ([f"no TensorRT engine: {engine}"] if engine else []) + reasons
        return tuple(f"{text}; {self.runs_on} runs the shard" for text in found)


def load_onnx_session(
    path: Path,
    config: RuntimeConfig,
    *,
    precision: Precision = "fp32",
    cache: Path | None = None,
) -> Session:
    """The real LoadSession: ONNX Runtime, dilated where the device is emulated.

    Raises: ModelError, ConfigError; DeviceError if the provider was seen not to work here.
    """
    provider = "cpu" if config.provider in ("auto", "tensorrt") else config.provider
    if provider != "cpu":  # in a process of its own first: a broken driver takes it along
        check = check_provider(provider)
        if not check.starts:
            raise DeviceError(
                f"{provider} does not work on this board: {check.reason}",
                hint="run `edgekit doctor`",
            )
    session = OrtSession(
        path,
        threads=config.threads,
        optimization=config.optimization,
        provider=provider,
        precision=precision,
        cache=cache,
    )
    return DilatedSession(session, factor=config.dilation) if config.dilation > 1.0 else session


def open_shard(
    announcement: Announcement,
    index: int,
    *,
    store: Store,
    config: RuntimeConfig,
    prove: Prove,
    load_session: LoadSession | None = None,
    on_change: Callable[[], None] = lambda: None,
    make_supervisor: MakeSupervisor = EngineSupervisor,
) -> ShardSession:
    """Load the shard of device ``index`` so that it serves, and prepare the way to its engine.

    Raises: TrustError, ModelError, DeviceError, ConfigError if nothing here can run it.
    """
    placement, manifest = announcement.plan.placements[index], announcement.manifest
    path = store.verified_path(manifest.entry(placement.shard))
    load = load_session or partial(
        load_onnx_session, precision=placement.precision, cache=store.engines_folder / "onnxruntime"
    )
    recipe, objection = _recipe(announcement, index, store, config)
    rungs = [
        Rung(
            f"onnxruntime {provider}",
            partial(load, path, msgspec.structs.replace(config, provider=provider)),
        )
        for provider in _providers(config, for_gpu=recipe is not None)
    ]
    ladder = LadderSession(rungs, prove=lambda session: prove(session, placement.precision))
    if objection:
        logger.warning("no TensorRT engine: %s", objection)
    if recipe is None:
        return ShardSession(ladder=ladder, objection=objection)
    job = EngineJob(onnx=str(path), recipe=recipe, folder=str(store.engines_folder))
    is_rounded = recipe.tf32 and recipe.precision == "fp32"  # 11 bits, as in half precision
    precision: Precision = "fp16" if is_rounded else placement.precision
    engine = make_supervisor(
        job, ladder=ladder, prove=lambda session: prove(session, precision), on_change=on_change
    )
    return ShardSession(ladder=ladder, engine=engine)


def _providers(config: RuntimeConfig, *, for_gpu: bool) -> tuple[Provider, ...]:
    """ONNX Runtime's, in the order of trying."""
    named = config.provider
    if named in ("auto", "tensorrt"):
        return ("cuda", "cpu") if for_gpu and "cuda" in available_providers() else ("cpu",)
    if named not in available_providers():
        raise ConfigError(
            f"runtime.provider is {named!r}, which the onnxruntime of this board lacks",
            hint=f"write {' or '.join(available_providers())} in agent.toml, or run "
            "`edgekit doctor`",
        )
    return (named,) if named == "cpu" else (named, "cpu")


def _recipe(
    announcement: Announcement, index: int, store: Store, config: RuntimeConfig
) -> tuple[EngineRecipe | None, str]:
    """The recipe to build after, if there is to be an engine; else why not, if one was meant.

    Raises: TrustError if the recipe in the store is not the one that was signed.
    """
    plan, manifest = announcement.plan, announcement.manifest
    placement = plan.placements[index]
    if config.provider not in ("auto", "tensorrt"):
        return None, ""
    if not placement.engine:
        is_wanted = config.provider == "tensorrt"
        return None, "the bundle has no engine recipe for this shard" if is_wanted else ""
    if config.dilation > 1.0:
        return None, "this device stands for a slower one (runtime.dilation)"
    data = store.verified_path(manifest.entry(placement.engine)).read_bytes()
    try:
        recipe = parse_json(data, EngineRecipe, origin=placement.engine)
    except ConfigError as error:
        return None, error.what
    paths = {entry.path for entry in manifest.files}
    if not recipe.golden or golden_path(index) not in paths:
        return None, "the bundle has no golden vectors for this shard, and unproved none may serve"
    if recipe.shard_sha256 != manifest.entry(placement.shard).sha256:
        return None, "the recipe is for another shard than the bundle's"
    return recipe, ""
