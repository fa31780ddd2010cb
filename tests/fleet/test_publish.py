"""What goes to the broker: everything that devices pull, in messages that any broker takes."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.agent.prepare import completed, files_for
from edgekit.agent.puller import pull_announcement
from edgekit.agent.store import Store
from edgekit.bundle.bundle import Bundle, shard_path, write_bundle
from edgekit.errors import TrustError
from edgekit.fleet.publish import publish_bundle, withdraw_bundle
from edgekit.spec.base import parse_json, to_json
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.codec import ChannelBasis, CodecSpec, parse_codec
from edgekit.spec.messages import Announcement
from edgekit.spec.plan import Cut, Placement, Plan
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.topics import BLOCK_BYTES, Topics
from edgekit.transport.memory_mqtt import MemoryBroker

TOPICS = Topics(fleet="f")
CARD = ModelCard(name="test", labels=("person",), output=OutputCard(decoder="yolox"))
IMAGE, ANSWER = (
    TensorSpec(name=name, dtype="float32", shape=(1, 2)) for name in ("image", "answer")
)
CHANNEL_COUNT = 256
MIDDLE = TensorSpec(name="middle", dtype="float32", shape=(1, CHANNEL_COUNT, 8, 8))


def klt() -> CodecSpec:
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((CHANNEL_COUNT,) * 2))
    basis = ChannelBasis(
        name="middle",
        mean=np.zeros(CHANNEL_COUNT, "<f4").tobytes(),
        rows=rotation.astype("<f4").tobytes(),
        step=0.1,
    )
    return CodecSpec(element="klt", packing="zstd", bases=(basis,))


def bundle_of(folder: Path, codec: CodecSpec) -> Bundle:
    ends = ((IMAGE,), (MIDDLE,), (ANSWER,))
    plan = Plan(
        model="test",
        model_sha256="a" * 64,
        rule="given",
        placements=tuple(
            Placement(
                device=device,
                shard=shard_path(index),
                inputs=ends[index],
                outputs=ends[index + 1],
                work_flop=1,
                weight_bytes=1,
            )
            for index, device in enumerate(("a", "b"))
        ),
        cuts=(Cut(tensors=(MIDDLE,), work_flop_before=1, op_count_before=1),),
        model_inputs=(IMAGE,),
        model_outputs=(ANSWER,),
        codecs=(codec,),
    )
    return write_bundle(folder, plan=plan, shards=[b"0", b"1"], card=CARD, report=b"long story")


def published(bundle: Bundle) -> tuple[MemoryBroker, Announcement]:
    broker = MemoryBroker()
    mqtt = broker.session("operator")
    mqtt.connect()
    announcement = publish_bundle(bundle, mqtt=mqtt, topics=TOPICS, progress=lambda *done: None)
    assert pull_announcement(bundle.deployment_id, mqtt=mqtt, topics=TOPICS) == announcement
    return broker, announcement


@pytest.mark.parametrize("codec", [parse_codec("uint8+zstd"), klt()], ids=["small", "256 channels"])
def test_no_message_is_larger_than_hosted_brokers_take(tmp_path: Path, codec: CodecSpec) -> None:
    """A basis of 256 channels is 350 kB of JSON; they take 128 kB."""
    bundle = bundle_of(tmp_path / "b", codec)
    broker, announcement = published(bundle)
    assert max(map(len, broker.retained.values())) <= BLOCK_BYTES
    assert announcement.is_whole == (codec.element != "klt")


def test_how_the_bundle_was_made_stays_at_home(tmp_path: Path) -> None:
    broker, _ = published(bundle_of(tmp_path / "b", parse_codec("fp16")))
    assert b"long story" not in broker.retained.values()


def test_a_device_gets_the_large_plan_as_a_file_and_has_it_whole(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "b", klt())
    _, announcement = published(bundle)
    store = Store(tmp_path / "store")
    wanted = files_for(announcement, "b")
    assert [entry.path for entry in wanted][-1] == "plan.json"
    for entry in wanted:
        store.blob_path(entry.sha256).write_bytes(bundle.read(entry.path))
    whole = completed(announcement, store)
    assert whole == Announcement(manifest=bundle.manifest, plan=bundle.plan)
    store.save_announcement(whole)
    again = store.announcement(bundle.deployment_id)
    assert again == whole
    assert completed(again, store) is again
    assert "plan.json" not in [entry.path for entry in files_for(again, "b")]


def test_a_plan_that_is_not_the_one_announced_is_refused(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "b", klt())
    _, announcement = published(bundle)
    store = Store(tmp_path / "store")
    for entry in files_for(announcement, "b"):
        store.blob_path(entry.sha256).write_bytes(bundle.read(entry.path))
    forged = msgspec.structs.replace(announcement.plan, model="other")
    other = Announcement(manifest=bundle.manifest, plan=forged, is_whole=False)
    with pytest.raises(TrustError, match="announced with another plan"):
        completed(other, store)
    plan = store.blob_path(bundle.manifest.entry("plan.json").sha256)
    plan.write_bytes(plan.read_bytes().replace(b'"step": 0.1', b'"step": 0.2'))
    with pytest.raises(TrustError, match=r"plan\.json in the store does not match its digest"):
        completed(announcement, store)


@pytest.mark.parametrize("codec", [parse_codec("fp16"), klt()], ids=["small", "256 channels"])
def test_withdrawing_leaves_nothing_on_the_broker(tmp_path: Path, codec: CodecSpec) -> None:
    bundle = bundle_of(tmp_path / "b", codec)
    broker, _ = published(bundle)
    mqtt = broker.session("again")
    mqtt.connect()
    withdraw_bundle(bundle, mqtt=mqtt, topics=TOPICS)
    assert broker.settle()
    assert not broker.retained


def test_an_announcement_without_the_new_word_is_whole(tmp_path: Path) -> None:
    """Stores of agents that were updated hold such."""
    whole = Announcement(
        manifest=bundle_of(tmp_path / "b", parse_codec("fp16")).manifest,
        plan=bundle_of(tmp_path / "c", parse_codec("fp16")).plan,
    )
    old = to_json(whole, indent=0).replace(b',"is_whole":true', b"")
    assert b"is_whole" not in old
    assert parse_json(old, Announcement, origin="store") == whole
