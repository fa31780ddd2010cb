"""A bundle with an engine recipe, and builders of engines that are told what to do."""

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.agent.engine import EngineSupervisor
from edgekit.agent.prepare import Prepared, files_for, prepare
from edgekit.agent.shard_session import ShardSession
from edgekit.agent.store import Store
from edgekit.bundle.bundle import Bundle, write_bundle
from edgekit.bundle.golden import Golden, golden_to_bytes
from edgekit.errors import DeviceError
from edgekit.runtime.echo import EchoSession
from edgekit.runtime.tensorrt import EngineCache, EngineFile, EngineJob, EngineReport
from edgekit.runtime.tensorrt.facts import EngineFacts
from edgekit.spec.agent_config import RuntimeConfig
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.engine import EngineRecipe, ShapeRange
from edgekit.spec.messages import Announcement
from edgekit.spec.plan import Placement, Plan
from edgekit.spec.tensors import Array, TensorSpec

IMAGE = TensorSpec(name="images", dtype="float32", shape=(1, 3, 32, 32))
OUTPUT = TensorSpec(name="output0", dtype="float32", shape=(1, 5, 21))
CARD = ModelCard(name="fake", labels=("thing",), output=OutputCard(decoder="ultralytics"))
SHARD, ENGINE = "shards/shard-0.onnx", "shards/shard-0.engine.json"
LIBRARY = "TensorRT 10.3.0"
KEY = "c" * 64


def compute(inputs: dict[str, Array], factor: float = 1.0) -> dict[str, Array]:
    """What the shard computes, times ``factor``: no detection either way."""
    mean = inputs["images"].mean(dtype=np.float64)
    return {"output0": np.full(OUTPUT.shape, factor * mean * 1e-3, np.float32)}


def recipe_for(shard: bytes, **more: object) -> EngineRecipe:
    shape = IMAGE.shape
    recipe = EngineRecipe(
        shard=SHARD, shard_sha256=hashlib.sha256(shard).hexdigest(), precision="fp32",
        shapes=(ShapeRange(name="images", least=shape, usual=shape, most=shape),),
        workspace_bytes=1 << 30, golden="golden/shard-0.npz", timeout_s=60.0,
    )  # fmt: skip
    return msgspec.structs.replace(recipe, **more)


def bundle_at(
    folder: Path,
    shard: bytes = b"shard",
    *,
    has_golden: bool = True,
    answers: Callable[[dict[str, Array]], dict[str, Array]] = compute,
    **recipe: object,
) -> Bundle:
    """One device "a", one shard, one recipe."""
    image = np.random.default_rng(0).random(IMAGE.shape, dtype=np.float32)
    golden = golden_to_bytes(Golden(inputs={"images": image}, outputs=answers({"images": image})))
    placement = Placement(
        device="a", shard=SHARD, inputs=(IMAGE,), outputs=(OUTPUT,), work_flop=1, weight_bytes=0,
        engine=ENGINE,
    )  # fmt: skip
    plan = Plan(
        model="fake", model_sha256="0" * 64, rule="none", placements=(placement,), cuts=(),
        model_inputs=(IMAGE,), model_outputs=(OUTPUT,),
    )  # fmt: skip
    return write_bundle(
        folder, plan=plan, shards=[shard], card=CARD, golden=[golden] if has_golden else [],
        engines={ENGINE: recipe_for(shard, **recipe)}, force=True,
    )  # fmt: skip


class FakeEngine(EchoSession):
    """An engine; ``run`` fails when ``problem`` is set."""

    def __init__(self, *, factor: float = 1.0, output: TensorSpec = OUTPUT) -> None:
        super().__init__((IMAGE,), (output,), function=lambda inputs: compute(inputs, factor))
        self.problem, self.is_closed = "", False

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        if self.problem:
            raise DeviceError(self.problem, hint="look at dmesg")
        return super().run(inputs)

    def close(self) -> None:
        self.is_closed = True


class FakeBuilder:
    """Stands for ``obtain_engine``: waits for ``ready``, tells its progress, ends as it is told."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.error, self.ready, self.building = error, threading.Event(), threading.Event()
        self.jobs: list[EngineJob] = []
        self.was_stopped = threading.Event()

    def __call__(
        self,
        job: EngineJob,
        *,
        on_report: Callable[[EngineReport], None],
        stopping: threading.Event,
    ) -> EngineFile:
        self.jobs.append(job)
        on_report(EngineReport(step="found", text=LIBRARY))
        on_report(EngineReport(step="building", text="Timing tactics", share=0.4))
        self.building.set()
        while not self.ready.wait(0.01):
            if stopping.is_set():
                self.was_stopped.set()
                raise DeviceError("the building of the engine was stopped", hint="deploy again")
        if self.error is not None:
            raise self.error
        facts = EngineFacts(module="tensorrt", library=LIBRARY, capability="8.7", driver="12.6")
        sha256 = job.recipe.shard_sha256
        cache = EngineCache(Path(job.folder))
        return cache.add(KEY, b"engine", shard_sha256=sha256, facts=facts, build_s=1.0)


FRAME: dict[str, Array] = {"images": np.full(IMAGE.shape, 0.5, np.float32)}


def load(path: Path, config: RuntimeConfig) -> EchoSession:
    return EchoSession((IMAGE,), (OUTPUT,), function=compute)


class FakeBoard:
    """A store with a deployment in it, a builder and an engine that do what they are told."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.builder, self.engine = folder, FakeBuilder(), FakeEngine()
        self.store = Store(folder / "store")
        monkeypatch.setattr("edgekit.agent.engine.obtain_engine", self._obtain)
        monkeypatch.setattr(
            "edgekit.agent.engine.TensorRtSession.open", lambda file: self.engine, raising=True
        )
        self.news: list[str] = []
        self.load = load

    def _obtain(self, *arguments: object, **more: object) -> object:
        return self.builder(*arguments, **more)  # type: ignore[arg-type]

    def prepare(self, *, config: RuntimeConfig | None = None, **bundle: object) -> Prepared:
        made = bundle_at(self.folder / "bundle", **bundle)  # type: ignore[arg-type]
        announcement = Announcement(manifest=made.manifest, plan=made.plan)
        for entry in files_for(announcement, "a"):
            self.store.blob_path(entry.sha256).write_bytes(made.read(entry.path))
        return prepare(
            announcement, device="a", store=self.store, config=config or RuntimeConfig(),
            load_session=self.load,
            on_change=lambda: self.news.append("changed"),
        )  # fmt: skip

    def started(self, **more: object) -> tuple[ShardSession, EngineSupervisor]:
        prepared = self.prepare(**more)  # type: ignore[arg-type]
        session = prepared.session
        assert session is not None and session.engine is not None
        prepared.start()
        assert self.builder.building.wait(10.0)
        return session, session.engine
