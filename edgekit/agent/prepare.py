"""Make a deployment ready on this device: verify, load, warm up, self-test.

In: an announcement and the store.  Out: a Prepared shard; nothing serves yet.
Every step can fail without touching what is serving now.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edgekit.agent.picture_runner import Runner, runner_of
from edgekit.agent.self_test import self_test
from edgekit.agent.shard import ShardRunner
from edgekit.agent.store import Store
from edgekit.bundle.bundle import CARD_PATH, PLAN_PATH
from edgekit.bundle.golden import golden_from_bytes, golden_path
from edgekit.errors import ConfigError, DeviceError, TrustError
from edgekit.runtime.dilated import DilatedSession
from edgekit.runtime.ort import OrtSession
from edgekit.runtime.session import Session, random_inputs
from edgekit.spec.agent_config import AgentConfig, RuntimeConfig
from edgekit.spec.base import parse_json, parse_toml
from edgekit.spec.card import ModelCard
from edgekit.spec.manifest import FileEntry
from edgekit.spec.messages import Announcement
from edgekit.spec.plan import Plan
from edgekit.transport.codecs import make_codec
from edgekit.vision.sources import open_source

_WARM_UP_RUNS = 2

LoadSession = Callable[[Path, RuntimeConfig], Session]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A shard that is loaded, warm and checked."""

    announcement: Announcement
    index: int
    runner: Runner
    card: ModelCard

    @property
    def deployment(self) -> str:
        """Its deployment id."""
        return self.announcement.manifest.deployment_id


def files_for(announcement: Announcement, device: str) -> tuple[FileEntry, ...]:
    """The files that ``device`` needs: the card, its shard and its golden vectors if there are any
    (a device that only forwards frames has none), the plan if that was too large to be announced.

    Raises: TrustError if the plan names a file that the manifest lacks.
    """
    plan, manifest = announcement.plan, announcement.manifest
    index = plan.stage_of(device)
    if index is None:
        return ()
    wanted = [manifest.entry(CARD_PATH)]
    if shard := plan.placements[index].shard:
        wanted.append(manifest.entry(shard))
    golden = golden_path(index)
    wanted += [entry for entry in manifest.files if entry.path == golden]
    if not announcement.is_whole:
        wanted.append(manifest.entry(PLAN_PATH))
    return tuple(wanted)


def completed(announcement: Announcement, store: Store) -> Announcement:
    """``announcement`` with its whole plan, from the store if it was too large to be announced.

    Raises: TrustError if that plan is not the one announced; ConfigError if it is none.
    """
    if announcement.is_whole:
        return announcement
    data = store.verified_path(announcement.manifest.entry(PLAN_PATH)).read_bytes()
    plan = parse_json(data, Plan, origin=f"{PLAN_PATH} of the bundle")
    if msgspec.structs.replace(plan, codecs=()) != announcement.plan:
        raise TrustError(
            f"deployment {announcement.manifest.deployment_id} was announced with another plan "
            "than its bundle holds",
            hint="publish the bundle again with `edgekit deploy`",
        )
    return Announcement(manifest=announcement.manifest, plan=plan)


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

    Raises: TrustError, ModelError, DeviceError; DeviceError if ``cancelled`` was set meanwhile;
    ConfigError if a library is missing that the codec of a hop from or to this device needs.
    """
    index = announcement.plan.stage_of(device)
    if index is None:
        raise DeviceError(
            f"deployment {announcement.manifest.deployment_id} has no shard for {device!r}",
            hint="build the bundle for a fleet that names this device",
        )
    for cut in range(len(announcement.plan.cuts)):
        if cut in (index - 1, index):
            make_codec(announcement.plan.codec_of(cut))
    manifest, placement = announcement.manifest, announcement.plan.placements[index]
    card_bytes = store.verified_path(manifest.entry(CARD_PATH)).read_bytes()
    card = parse_toml(card_bytes, ModelCard, origin=f"{CARD_PATH} of the bundle")
    shard = None
    if placement.shard:
        path = store.verified_path(manifest.entry(placement.shard))
        session = load_session(path, config)
        shard = ShardRunner(session, announcement.plan, index)
        _warm_up(session, cancelled)
        _prove(session, announcement, index, store)
    runner = runner_of(announcement.plan, index, shard, card)
    return Prepared(announcement=announcement, index=index, runner=runner, card=card)


def _warm_up(session: Session, cancelled: threading.Event | None) -> None:
    for seed in range(_WARM_UP_RUNS):
        if cancelled is not None and cancelled.is_set():
            raise DeviceError("the preparation was aborted", hint="deploy again")
        session.run(random_inputs(session.inputs, seed=seed))


def _prove(session: Session, announcement: Announcement, index: int, store: Store) -> None:
    """Self-test, if the bundle has golden vectors."""
    placement = announcement.plan.placements[index]
    for entry in announcement.manifest.files:
        if entry.path == golden_path(index):
            vectors = store.verified_path(entry).read_bytes()
            self_test(
                session,
                golden_from_bytes(vectors, origin=entry.path),
                device=placement.device,
                precision=placement.precision,
            )


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
