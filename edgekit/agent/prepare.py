"""Make a deployment ready on this device: verify, load, warm up, self-test.

In: an announcement and the store.  Out: a Prepared shard; nothing serves yet.
Every step can fail without touching what is serving now.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.agent.shard import ShardRunner
from edgekit.agent.store import Store
from edgekit.bundle.bundle import CARD_PATH
from edgekit.bundle.golden import Golden, golden_from_bytes, golden_path
from edgekit.errors import ConfigError, DeviceError, TrustError
from edgekit.runtime.dilated import DilatedSession
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import Session, random_inputs
from edgekit.spec.agent_config import AgentConfig, RuntimeConfig
from edgekit.spec.base import parse_toml
from edgekit.spec.card import ModelCard
from edgekit.spec.manifest import FileEntry
from edgekit.spec.messages import Announcement
from edgekit.vision.sources import open_source

_WARM_UP_RUNS = 2
_MAX_RELATIVE_ERROR = 1e-3
"""Between boards, not between cuts: other instruction sets add in another order."""

LoadSession = Callable[[Path, RuntimeConfig], Session]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A shard that is loaded, warm and checked."""

    announcement: Announcement
    index: int
    runner: ShardRunner
    card: ModelCard

    @property
    def deployment(self) -> str:
        """Its deployment id."""
        return self.announcement.manifest.deployment_id


def files_for(announcement: Announcement, device: str) -> tuple[FileEntry, ...]:
    """The files that ``device`` needs: its shard, the card, its golden vectors if there are any.

    Raises: TrustError if the plan names a file that the manifest lacks.
    """
    plan, manifest = announcement.plan, announcement.manifest
    index = plan.stage_of(device)
    if index is None:
        return ()
    wanted = [manifest.entry(plan.placements[index].shard), manifest.entry(CARD_PATH)]
    golden = golden_path(index)
    wanted += [entry for entry in manifest.files if entry.path == golden]
    return tuple(wanted)


def load_onnx_session(path: Path, config: RuntimeConfig) -> Session:
    """The real LoadSession: ONNX Runtime, dilated where the device is emulated."""
    session = OrtSession(path, threads=config.threads, optimization=config.optimization)
    return DilatedSession(session, factor=config.dilation) if config.dilation > 1.0 else session


def prepare(
    announcement: Announcement,
    *,
    device: str,
    store: Store,
    config: RuntimeConfig,
    load_session: LoadSession = load_onnx_session,
    cancelled: threading.Event | None = None,
) -> Prepared:
    """Load what the store holds for this device and prove that it answers rightly.

    Raises: TrustError, ModelError, DeviceError; DeviceError if ``cancelled`` was set meanwhile.
    """
    index = announcement.plan.stage_of(device)
    if index is None:
        raise DeviceError(
            f"deployment {announcement.manifest.deployment_id} has no shard for {device!r}",
            hint="build the bundle for a fleet that names this device",
        )
    manifest, placement = announcement.manifest, announcement.plan.placements[index]
    shard_path = store.verified_path(manifest.entry(placement.shard))
    card_bytes = store.verified_path(manifest.entry(CARD_PATH)).read_bytes()
    card = parse_toml(card_bytes, ModelCard, origin=f"{CARD_PATH} of the bundle")
    session = load_session(shard_path, config)
    runner = ShardRunner(session, announcement.plan, index)
    for seed in range(_WARM_UP_RUNS):
        if cancelled is not None and cancelled.is_set():
            raise DeviceError("the preparation was aborted", hint="deploy again")
        session.run(random_inputs(session.inputs, seed=seed))
    golden = [entry for entry in manifest.files if entry.path == golden_path(index)]
    if golden:
        vectors = store.verified_path(golden[0]).read_bytes()
        _self_test(session, golden_from_bytes(vectors, origin=golden[0].path), device)
    return Prepared(announcement=announcement, index=index, runner=runner, card=card)


def check_source(config: AgentConfig, *, is_in_use: bool) -> None:
    """Before anybody switches: is there something to film? One that is in use, by us, is not tried.

    Raises: ConfigError, DeviceError.
    """
    source = config.source
    if source is None:
        raise ConfigError(
            f"{config.device} runs the first shard but has no source",
            hint='add [source] with uri = "0" (or a file, rtsp:// or scene:yard) to agent.toml',
        )
    if not is_in_use:
        open_source(source.uri).close()


def _self_test(session: Session, golden: Golden, device: str) -> None:
    """Run the golden inputs and compare with the golden outputs."""
    got = session.run(dict(golden.inputs))
    for name, want in golden.outputs.items():
        scale = float(np.abs(want).max()) or 1.0
        error = float(np.abs(got[name].astype(np.float64) - want.astype(np.float64)).max()) / scale
        if not error <= _MAX_RELATIVE_ERROR:  # also catches nan
            raise TrustError(
                f"self-test on {device}: output {name!r} is off by {error:.1e} of its range",
                hint="update onnxruntime on this device; do not serve from it as it is",
            )
