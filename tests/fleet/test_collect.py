"""The summary of a stream whose hops are coded."""

from edgekit.fleet.collect import StreamCollector
from edgekit.spec.base import to_json
from edgekit.spec.messages import AnswerReport, HopTime
from edgekit.spec.topics import Topics
from edgekit.transport.memory_mqtt import MemoryBroker

TOPICS = Topics(fleet="f")


def test_a_hop_is_one_line_of_the_summary_whatever_its_frames_weigh() -> None:
    """A packing codec sends other bytes every time; medians tell bytes and times."""
    broker = MemoryBroker()
    mqtt = broker.session("operator")
    mqtt.connect()
    collector = StreamCollector(mqtt, TOPICS, stream="s")
    for frame, nbytes in enumerate((900, 1000, 1400)):
        hop = HopTime(
            source="a", target="b", bytes=nbytes, ms=nbytes / 100, encode_ms=2.0, decode_ms=frame
        )
        report = AnswerReport(
            stream="s", run="r", frame=frame, detections=(), captured_unix_s=0.0, age_ms=1.0,
            hops=(hop,),
        )  # fmt: skip
        mqtt.publish(TOPICS.detections("s"), to_json(report, indent=0))
    assert broker.settle()
    (hop,) = collector.summary(cut=(), model="m", source="s").hops
    assert (hop.bytes, hop.ms, hop.encode_ms, hop.decode_ms) == (1000, 10.0, 2.0, 1.0)
