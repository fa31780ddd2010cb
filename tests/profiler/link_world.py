"""What the link tests share: trains, transfers and echoes as they might have been measured."""

from edgekit.transport.probe import Bulk, Echoes, Train
from edgekit.transport.probe_messages import BulkReport, BulkSent, TrainReport, TrainSent

PACKET_BYTES = 1472
PAYLOAD_BYTES = 1448


def train(bytes_per_s: float, *, sending_s: float = 0.001, was_held_up: bool = False) -> Train:
    """100 packets that arrived at this rate."""
    rate = bytes_per_s / PAYLOAD_BYTES
    return Train(
        packet_bytes=PACKET_BYTES,
        sending=TrainSent(packet_count=100, sending_s=sending_s, was_held_up=was_held_up),
        report=TrainReport(
            received_count=100,
            overflow_count=0,
            span_s=100 / rate if rate else 0.0,
            packets_per_s=rate,
        ),
    )


def bulk(bytes_per_s: float, *, waited_s: float = 0.0, sender_waited_s: float = 0.0) -> Bulk:
    """A transfer of one second."""
    return Bulk(
        sent=BulkSent(waited_s=sender_waited_s),
        report=BulkReport(
            received_bytes=round(bytes_per_s),
            span_s=1.0,
            bytes_per_s=bytes_per_s,
            waited_s=waited_s,
        ),
    )


def echoes(*round_trips_s: float, sent_count: int = 0) -> Echoes:
    return Echoes(
        round_trips_s=round_trips_s or (0.001,), sent_count=sent_count or len(round_trips_s) or 1
    )
