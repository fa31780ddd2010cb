"""Bytes per frame from what the hop carried lately: on a modelled link, and on a throttled one."""

import time
from contextlib import ExitStack

import msgspec
import numpy as np
import pytest
from hop_world import PATIENCE_S, Downstream, Upstream, activation, identity, wait_until
from hypothesis import given
from hypothesis import strategies as st
from throttle import Throttle

from edgekit.spec.codec import CodecSpec
from edgekit.transport.codecs import fit_klt
from edgekit.transport.hop import TcpHopLink, TcpHopListener
from edgekit.transport.hop_pace import Pace
from edgekit.transport.memory import MemoryHopLink, MemoryHopListener, MemoryNetwork


class ModelLink:
    """One frame at a time over a link of this speed and empty round trip."""

    def __init__(self, pace: Pace, *, bytes_per_s: float, rtt_s: float, whole_bytes: int) -> None:
        self.pace, self.bytes_per_s, self.rtt_s = pace, bytes_per_s, rtt_s
        self.whole_bytes = whole_bytes

    def send(self) -> tuple[int, float]:
        """Bytes of the next frame, and how long they took."""
        budget_bytes = self.pace.budget_bytes()
        nbytes = self.whole_bytes if budget_bytes is None else min(budget_bytes, self.whole_bytes)
        nbytes = max(nbytes, 500)  # one group of components is always sent
        transfer_s = self.rtt_s + nbytes / self.bytes_per_s
        self.pace.add(nbytes, round_trip_s=transfer_s + 0.03, residence_s=0.03)
        return nbytes, transfer_s


@given(
    bytes_per_s=st.floats(1e5, 1e8),
    rtt_share=st.floats(0.001, 0.5),
    deadline_s=st.floats(0.01, 0.2),
)
def test_frames_settle_just_within_their_deadline(
    bytes_per_s: float, rtt_share: float, deadline_s: float
) -> None:
    """Whatever the link: neither late nor needlessly small."""
    link = ModelLink(
        Pace(deadline_s),
        bytes_per_s=bytes_per_s,
        rtt_s=rtt_share * deadline_s,
        whole_bytes=10**9,
    )
    for _ in range(60):
        nbytes, transfer_s = link.send()
    assert transfer_s <= deadline_s or nbytes == 500
    assert nbytes >= min(0.5 * bytes_per_s * (0.8 * deadline_s - link.rtt_s), link.whole_bytes)


def test_a_link_cut_to_a_tenth_costs_two_late_frames_and_its_recovery_none() -> None:
    link = ModelLink(Pace(0.05), bytes_per_s=1e7, rtt_s=0.002, whole_bytes=400_000)
    for _ in range(10):
        full_bytes, _ = link.send()
    link.bytes_per_s = 1e6
    slow = [link.send() for _ in range(12)]
    assert [transfer_s <= 0.05 for _, transfer_s in slow] == [False] * 2 + [True] * 10
    assert 0.05 < slow[-1][0] / full_bytes < 0.12
    link.bytes_per_s = 1e7
    back = [link.send() for _ in range(10)]
    assert all(transfer_s <= 0.05 for _, transfer_s in back)
    assert back[-1][0] > 0.9 * full_bytes


def test_one_stall_is_no_news() -> None:
    """A radio that hesitates once must not cost quality for seconds."""
    pace = Pace(0.05)
    for _ in range(3):
        pace.add(100_000, round_trip_s=0.02, residence_s=0.01)
    before = pace.budget_bytes()
    pace.add(100_000, round_trip_s=2.0, residence_s=0.01)
    assert pace.budget_bytes() == before
    pace.add(100_000, round_trip_s=2.0, residence_s=0.01)
    assert pace.budget_bytes() < before / 100  # type: ignore[operator]


def test_a_frame_that_is_overdue_counts_before_it_arrives() -> None:
    """When a link breaks down, the next answer may be seconds away."""
    pace = Pace(0.05)
    for _ in range(3):
        pace.add(100_000, round_trip_s=0.03, residence_s=0.02)
    usual = pace.budget_bytes()
    assert pace.budget_bytes(100_000, 0.06) == usual  # within deadline and residence
    assert pace.budget_bytes(100_000, 1.02) == int(0.8 * 0.05 * 100_000)
    assert Pace(0.05).budget_bytes(100_000, 1.0) == int(0.8 * 0.05 * 100_000)


def test_nothing_known_is_no_limit_and_a_new_address_is_nothing_known() -> None:
    pace = Pace(0.05)
    assert pace.budget_bytes() is None
    pace.add(1000, round_trip_s=0.01, residence_s=0.02)  # clocks round: no time at all
    assert pace.budget_bytes() is not None
    pace.forget()
    assert pace.budget_bytes() is None


def activations(count: int) -> list[np.ndarray]:
    """Tensors whose channels share a few causes, as those of networks do."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((64, 64)) * np.geomspace(1, 0.01, 64)
    return [
        np.einsum("oc,chw->ohw", mixing, rng.standard_normal((64, 26, 26)))
        .astype(np.float32)[None]
        for _ in range(count)
    ]  # fmt: skip


def progressive(deadline_s: float) -> CodecSpec:
    codec = fit_klt([{"x": tensor} for tensor in activations(8)], relative_step=0.02)
    return msgspec.structs.replace(codec, deadline_s=deadline_s)


def test_the_fake_hop_keeps_deadlines_too() -> None:
    """A hop without a network takes microseconds: everything fits, after and before."""
    codec, (tensor,) = progressive(5.0), activations(1)
    network, up, down = MemoryNetwork(), Upstream(), Downstream()
    listener = MemoryHopListener(network, on_activation=down.on_activation)
    listener.serve(identity("edge-b", codec=codec))
    link = MemoryHopLink(
        network, identity("edge-a", codec=codec), on_answer=up.on_answer, on_state=up.on_state
    )
    link.set_peer(*listener.address)
    for frame in range(5):
        link.send(activation(frame, {"x": tensor}), timeout_s=5)
        assert wait_until(lambda frame=frame: len(up.answers) == frame + 1)
    sizes = {trip.payload_bytes for trip in up.trips}
    assert max(sizes) < 1.05 * min(sizes)
    link.close()
    listener.close()


@pytest.mark.integration
def test_over_a_link_cut_to_a_tenth_frames_keep_coming_with_fewer_components() -> None:
    """A real socket through a cable of adjustable speed; ratios, no absolute times."""
    deadline_s = 0.1
    codec, tensors = progressive(deadline_s), activations(4)
    up, down = Upstream(), Downstream()
    with ExitStack() as stack:
        listener = TcpHopListener("127.0.0.1", 0, on_activation=down.on_activation)
        stack.callback(listener.close)
        listener.serve(identity("edge-b", codec=codec))
        cable = Throttle(listener.address, 1e6)
        stack.callback(cable.close)
        link = TcpHopLink(
            identity("edge-a", codec=codec), on_answer=up.on_answer, on_state=up.on_state
        )
        stack.callback(link.close)
        link.set_peer(*cable.address)
        assert link.wait_ready(PATIENCE_S)
        frame = 0

        def send(count: int) -> list[tuple[int, float]]:
            """Payload bytes and transfer times [s] of so many frames, ten a second."""
            nonlocal frame
            first = frame
            for _ in range(count):
                taken = activation(frame, {"x": tensors[frame % len(tensors)]})
                link.send(taken, timeout_s=PATIENCE_S)
                frame += 1
                time.sleep(deadline_s)
            assert wait_until(lambda: len(up.answers) == frame)
            return [
                (trip.payload_bytes, trip.round_trip_s - answer.residence_s)
                for trip, answer in zip(up.trips[first:], up.answers[first:], strict=True)
            ]

        fast = send(8)
        cable.bytes_per_s = 1e5
        slow = send(16)
        cable.bytes_per_s = 1e6
        back = send(12)
    assert len(up.states) == 1  # nobody gave the hop up
    full = np.median([nbytes for nbytes, _ in fast])
    least = np.median([nbytes for nbytes, _ in slow[6:]])
    assert full > 2 * deadline_s * 1e5  # whole, it would take more than twice the deadline
    assert least < 0.6 * full
    on_time = [transfer_s <= deadline_s for _, transfer_s in slow[6:]]
    assert np.mean(on_time) >= 0.7, slow
    assert np.median([nbytes for nbytes, _ in back[6:]]) > 0.95 * full
    errors = [
        float(np.abs(taken.tensors["x"] - tensors[taken.frame % len(tensors)]).mean())
        for taken in down.activations
    ]
    assert np.median(errors[14:24]) > np.median(errors[:8])  # fewer components say less
    assert np.median(errors[14:24]) < np.abs(tensors[0]).mean()  # but not nothing
