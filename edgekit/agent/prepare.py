"""Make a deployment ready on this device: verify, load, warm up, self-test.

In: an announcement and the store.  Out: a Prepared shard; nothing serves yet. Where the bundle has
an engine recipe, ONNX Runtime is ready at once and the engine follows in its own time.
Every step can fail without touching what is serving now.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from edgekit.agent.picture_runner import Runner, runner_of
from edgekit.agent.self_test import self_test
from edgekit.agent.shard import ShardRunner
from edgekit.agent.shard_session import LoadSession, ShardSession, open_shard
from edgekit.agent.store import Store
from edgekit.bundle.bundle import CARD_PATH, PLAN_PATH
from edgekit.bundle.golden import golden_from_bytes, golden_path
from edgekit.errors import ConfigError, DeviceError, TrustError
from edgekit.runtime.session import Session, random_inputs
from edgekit.spec.agent_config import AgentConfig, RuntimeConfig
from edgekit.spec.base import parse_json, parse_toml
from edgekit.spec.card import ModelCard
from edgekit.spec.manifest import FileEntry
from edgekit.spec.messages import Announcement
from edgekit.spec.plan import Plan
from edgekit.spec.profile import Precision
from edgekit.transport.codecs import make_codec
from edgekit.vision.sources import open_source

_WARM_UP_RUNS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A shard that is loaded, warm and checked."""

    announcement: Announcement
    index: int
    runner: Runner
    card: ModelCard
    session: ShardSession | None = None
    """What runs its shard; None on a device that only forwards frames."""

    @property
    def deployment(self) -> str:
        """Its deployment id."""
        return self.announcement.manifest.deployment_id

    def start(self) -> None:
        """Begin to get its engine, if there is to be one."""
        if self.session is not None:
            self.session.start()

    def close(self) -> None:
        """It serves no more, or never will."""
        if self.session is not None:
            self.session.close()


def files_for(announcement: Announcement, device: str) -> tuple[FileEntry, ...]:
    """The files that ``device`` needs: the card; its shard, with golden vectors and engine recipe
    where the bundle has them (a device that only forwards frames has no shard); the plan if that
    was too large to be announced.

    Raises: TrustError if the plan names a file that the manifest lacks.
    """
    plan, manifest = announcement.plan, announcement.manifest
    index = plan.stage_of(device)
    if index is None:
        return ()
    wanted = [manifest.entry(CARD_PATH)]
    if shard := plan.placements[index].shard:
        wanted.append(manifest.entry(shard))
    if recipe := plan.placements[index].engine:
        wanted.append(manifest.entry(recipe))
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


def prepare(
    announcement: Announcement,
    *,
    device: str,
    store: Store,
    config: RuntimeConfig,
    load_session: LoadSession | None = None,
    cancelled: threading.Event | None = None,
    on_change: Callable[[], None] = lambda: None,
) -> Prepared:
    """Load what the store holds for this device and prove that it answers rightly.

    Raises: TrustError, ModelError, DeviceError; DeviceError if ``cancelled`` was set meanwhile;
    ConfigError if a library is missing that the codec of a hop from or to this device needs.
    ``load_session`` stands for ONNX Runtime in tests; ``on_change`` hears of the engine's progress.
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
    session = shard = None
    if placement.shard:
        session = open_shard(
            announcement,
            index,
            store=store,
            config=config,
            load_session=load_session,
            prove=partial(_prove, announcement, index, store),
            on_change=on_change,
        )
        if cancelled is not None and cancelled.is_set():
            raise DeviceError("the preparation was aborted", hint="deploy again")
        shard = ShardRunner(session.ladder, announcement.plan, index)
    runner = runner_of(announcement.plan, index, shard, card)
    return Prepared(
        announcement=announcement, index=index, runner=runner, card=card, session=session
    )


def _prove(
    announcement: Announcement, index: int, store: Store, session: Session, precision: Precision
) -> None:
    """It takes what the plan brings, runs, and passes the self-test if there are golden vectors.

    Raises: ModelError, DeviceError, TrustError if it does not.
    """
    ShardRunner(session, announcement.plan, index)
    for seed in range(_WARM_UP_RUNS):
        session.run(random_inputs(session.inputs, seed=seed))
    placement = announcement.plan.placements[index]
    for entry in announcement.manifest.files:
        if entry.path == golden_path(index):
            vectors = store.verified_path(entry).read_bytes()
            self_test(
                session,
                golden_from_bytes(vectors, origin=entry.path),
                device=placement.device,
                precision=precision,
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
