"""Whole frames to the next device: the one with the camera has no shard."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest
from stage_world import CARD, IMAGE, MIDDLE, Pair, find_brightness, forwarding_plan, plan_of

from edgekit.agent.prepare import files_for, prepare
from edgekit.agent.store import Store
from edgekit.bundle.bundle import open_bundle, write_bundle
from edgekit.bundle.golden import Golden, golden_to_bytes
from edgekit.errors import ConfigError
from edgekit.runtime.echo import EchoSession
from edgekit.spec.agent_config import RuntimeConfig
from edgekit.spec.codec import RAW, parse_codec
from edgekit.spec.messages import Announcement
from edgekit.spec.plan import FRAME, FRAME_CUT
from edgekit.vision.sources.memory import MemorySource


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def pictures(count: int) -> list[np.ndarray]:
    """Of two sizes in turn, as from a folder of images."""
    return [np.full((40, 60, 3) if index % 2 else (64, 48, 3), index, np.uint8)
            for index in range(count)]  # fmt: skip


@pytest.mark.parametrize("name", ["fp32", "fp32+zstd", "jpeg-90", "webp-80", "png"])
def test_every_forwarded_frame_is_answered_with_its_own_answer_in_its_own_size(
    stack: ExitStack, name: str
) -> None:
    pair = Pair(MemorySource(pictures(20)), stack, codec=parse_codec(name), forwards=True)
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed)
    assert pair.ledger.snapshot(0.0).dropped == {}
    assert [answered.frame.number for answered in pair.answers] == list(range(20))
    for answered in pair.answers:
        image = answered.frame.image
        (box,) = [detection.box for detection in answered.detections]
        # The model sees a square; a letterbox of 32 px scales boxes by the larger side over 32.
        scale = max(image.shape[:2]) / 32
        assert box[2] - box[0] > 1.5 * scale
        assert max(box[2], box[3]) <= max(image.shape[:2]) + 1
        assert [stage.device for stage in answered.stages] == ["a", "b"]
        (hop,) = answered.hops
        assert hop.bytes == image.nbytes if name == "fp32" else hop.bytes < image.nbytes / 5


def test_footage_that_is_forwarded_survives_a_lost_hop(stack: ExitStack) -> None:
    pair = Pair(MemorySource(pictures(30)), stack, delay_s=0.005, forwards=True)
    pair.start_peer()
    pair.start()
    pair.wait(lambda: len(pair.answers) >= 5)
    pair.stop_peer()
    pair.start_peer()
    pair.wait(pair.is_closed, 20.0)
    accounts = pair.ledger.snapshot(time.perf_counter())
    assert (accounts.answered, accounts.dropped) == (30, {})


def test_something_else_than_a_picture_is_dropped_with_a_reason(stack: ExitStack) -> None:
    """A neighbour that runs another plan must not crash this one."""
    pair = Pair(MemorySource(pictures(3)), stack, forwards=True)
    wrong = iter(
        [
            {FRAME: np.zeros((4, 4), np.uint8)},
            {FRAME: np.zeros((4, 4, 3), np.float32)},
            {"x": np.zeros((4, 4, 3), np.uint8)},
        ]
    )
    pair.stage._runner.run = lambda tensors: next(wrong)  # type: ignore[method-assign]
    pair.start_peer()
    pair.start()
    pair.wait(pair.is_closed)
    assert pair.ledger.snapshot(0.0).dropped == {"wrong_tensors": 3}


def test_a_bundle_without_a_shard_for_the_camera_reads_back_and_is_prepared(
    tmp_path: Path,
) -> None:
    """Manifest, golden vectors and preparation all count shards, not devices."""
    plan = forwarding_plan(RAW)
    image = np.zeros(IMAGE.shape, np.float32)
    golden = golden_to_bytes(
        Golden(inputs={"images": image}, outputs=find_brightness({"x": image}))
    )
    written = write_bundle(tmp_path / "b", plan=plan, shards=[b"whole"], card=CARD, golden=[golden])
    bundle = open_bundle(tmp_path / "b")
    assert bundle.plan == plan
    assert bundle.plan.forwards_frames
    assert bundle.golden(0) is None
    assert bundle.golden(1) is not None
    announcement = Announcement(manifest=written.manifest, plan=plan)
    assert [entry.path for entry in files_for(announcement, "a")] == ["model.toml"]
    assert len(files_for(announcement, "b")) == 3
    store = Store(tmp_path / "store")
    for entry in files_for(announcement, "b"):
        store.blob_path(entry.sha256).write_bytes(bundle.read(entry.path))
    loaded = []

    def load(path: Path, config: RuntimeConfig) -> EchoSession:
        loaded.append(path.read_bytes())
        return EchoSession((IMAGE,), plan.model_outputs, function=find_brightness)

    picture = np.full((50, 70, 3), 7, np.uint8)
    for device, leaving in (("a", {FRAME}), ("b", {"output0"})):
        made = prepare(
            announcement, device=device, store=store, config=RuntimeConfig(), load_session=load
        )
        assert made.runner.check({FRAME: picture}) == ""
        assert set(made.runner.run({FRAME: picture})) == leaving
    assert loaded == [b"whole"]


def test_a_plan_whose_forwarding_makes_no_sense_is_refused() -> None:
    plan = forwarding_plan(RAW)
    first, last = plan.placements
    other = plan_of("a", "b").cuts
    for change, reason in (
        ({"cuts": other}, "a has no shard, so nothing but frames can leave it"),
        ({"placements": (last, msgspec.structs.replace(first, device="c"))}, "after the first"),
        ({"placements": (first,), "cuts": (), "codecs": ()}, "a has no shard"),
        (
            {
                "placements": plan_of("a", "b").placements,
                "cuts": other,
                "codecs": (parse_codec("jpeg-90"),),
            },
            "middle are no picture, so jpeg-90 cannot",
        ),
    ):
        with pytest.raises(ConfigError, match=reason):
            msgspec.structs.replace(plan, **change).__post_init__()
    assert not plan_of("a", "b").forwards_frames
    assert FRAME_CUT.nbytes == 0
    assert MIDDLE.nbytes > 0
