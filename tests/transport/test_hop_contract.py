"""What port.py promises, for the real hop (plain and TLS) and for its fake alike."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
from hop_world import (
    PATIENCE_S,
    Downstream,
    Upstream,
    World,
    activation,
    answer_to,
    identity,
    wait_until,
)

from edgekit.errors import LinkError, ModelError
from edgekit.spec.messages import Detection
from edgekit.transport.port import Activation


def test_a_frame_goes_forward_and_its_answer_comes_back(world: World) -> None:
    up, down = Upstream(), Downstream()
    link, _ = world.pair(up, down)
    link.send(activation(5), timeout_s=1)
    assert wait_until(lambda: up.answers)
    assert (up.answers[0].frame, up.answers[0].capture_ns) == (5, 123_456_789)
    assert up.trips[0].round_trip_s > 0
    assert up.states == [(True, "connected")]
    assert link.state == "connected"
    assert link.is_connected


def test_random_tensors_arrive_byte_for_byte(world: World) -> None:
    """From one element to a megabyte, several per frame, odd sizes between."""
    up, down = Upstream(), Downstream()
    link, _ = world.pair(up, down)
    rng = np.random.default_rng(7)
    sent = []
    for frame in range(12):
        counts = rng.integers(1, 120_000, size=rng.integers(1, 4))
        tensors = {
            f"t{index}": rng.integers(0, 256, count, dtype=np.uint8) if index % 2
            else rng.standard_normal(count).astype(np.float32)
            for index, count in enumerate(counts)
        }  # fmt: skip
        sent.append(tensors)
        link.send(activation(frame, tensors), timeout_s=PATIENCE_S)
    assert wait_until(lambda: len(up.answers) == 12)
    for tensors, taken in zip(sent, down.activations, strict=True):
        assert list(taken.tensors) == list(tensors)
        for name, array in tensors.items():
            assert taken.tensors[name].tobytes() == array.tobytes()


def test_tensors_stay_valid_as_long_as_somebody_holds_them(world: World) -> None:
    """No buffer is reused under the consumer's feet."""
    up, down = Upstream(), Downstream()
    link, _ = world.pair(up, down)
    for frame in range(6):
        link.send(
            activation(frame, {"x": np.full(50_000, frame, np.float32)}), timeout_s=PATIENCE_S
        )
    assert wait_until(lambda: len(down.taken) == 6)
    for frame, taken in enumerate(down.activations):
        assert (taken.tensors["x"] == frame).all()


def test_a_slow_receiver_never_holds_more_frames_than_the_credit(world: World) -> None:
    """Queues stay bounded end to end: the sender learns at once, and drops the frame itself."""
    up, down = Upstream(), Downstream(eager=False)
    link, _ = world.pair(up, down, credit_count=3)
    for frame in range(3):
        link.send(activation(frame), timeout_s=1)
    assert not link.wait_ready(0.05)
    with pytest.raises(LinkError, match="no credit"):
        link.send(activation(3), timeout_s=0.05)
    assert wait_until(lambda: len(down.taken) == 3)
    down.taken[0][2]()
    link.send(activation(4), timeout_s=PATIENCE_S)
    assert wait_until(lambda: len(down.taken) == 4)
    with pytest.raises(LinkError, match="no credit"):
        link.send(activation(5), timeout_s=0.05)


def test_releasing_twice_grants_once(world: World) -> None:
    up, down = Upstream(), Downstream(eager=False)
    link, _ = world.pair(up, down, credit_count=1)
    link.send(activation(0), timeout_s=1)
    assert wait_until(lambda: down.taken)
    for _ in range(3):
        down.taken[0][2]()
    link.send(activation(1), timeout_s=PATIENCE_S)
    assert wait_until(lambda: len(down.taken) == 2)
    with pytest.raises(LinkError, match="no credit"):
        link.send(activation(2), timeout_s=0.05)


def test_credit_survives_a_reconnection_without_growing(world: World) -> None:
    """Frames still held by the consumer count against the next connection too."""
    up, down = Upstream(), Downstream(eager=False)
    first, listener = world.pair(up, down, credit_count=2)
    first.send(activation(0), timeout_s=1)
    assert wait_until(lambda: down.taken)
    first.close()
    second = world.link(Upstream())
    second.set_peer(*listener.address)
    second.send(activation(1), timeout_s=PATIENCE_S)
    with pytest.raises(LinkError, match="no credit"):
        second.send(activation(2), timeout_s=0.05)
    down.taken[0][2]()
    second.send(activation(3), timeout_s=PATIENCE_S)


def test_answers_may_come_late_and_out_of_order(world: World) -> None:
    up, down = Upstream(), Downstream(eager=False)
    link, _ = world.pair(up, down, credit_count=4)
    for frame in range(4):
        link.send(activation(frame), timeout_s=1)
    assert wait_until(lambda: len(down.taken) == 4)
    for taken, reply, release in reversed(down.taken):
        release()
        reply(answer_to(taken))
    assert wait_until(lambda: len(up.answers) == 4)
    assert [answer.frame for answer in up.answers] == [3, 2, 1, 0]


def test_a_second_answer_about_the_same_frame_is_dropped(world: World) -> None:
    """Exactly one answer per activation, whatever the consumer does."""
    up, down = Upstream(), Downstream()
    link, _ = world.pair(up, down)
    link.send(activation(0), timeout_s=1)
    assert wait_until(lambda: up.answers)
    down.taken[0][1](answer_to(down.activations[0]))
    link.send(activation(1), timeout_s=1)
    assert wait_until(lambda: len(up.answers) == 2)
    assert [answer.frame for answer in up.answers] == [0, 1]


def test_an_answer_can_carry_a_thousand_detections(world: World) -> None:
    up, down = Upstream(), Downstream(eager=False)
    link, _ = world.pair(up, down)
    link.send(activation(0), timeout_s=1)
    assert wait_until(lambda: down.taken)
    found = tuple(
        Detection(label="person", score=index / 1000, box=(0.0, 1.0, index, 3.0))
        for index in range(1000)
    )
    down.taken[0][1](answer_to(down.activations[0], detections=found))
    assert wait_until(lambda: up.answers)
    assert up.answers[0].detections == found


def test_before_serving_the_listener_refuses_and_says_why(world: World) -> None:
    up, down = Upstream(), Downstream()
    listener = world.listener(down)
    link = world.link(up)
    link.set_peer(*listener.address)
    assert wait_until(lambda: "not serving deployment d1 yet" in link.state), link.state
    assert not link.is_connected
    with pytest.raises(LinkError, match="not serving deployment d1 yet"):
        link.send(activation(), timeout_s=0.02)
    listener.serve(identity("edge-b"))
    assert link.wait_ready(PATIENCE_S)
    assert wait_until(lambda: up.states == [(True, "connected")])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"deployment": "d0"}, "edge-b refuses: serving deployment d1, not d0"),
        ({"epoch": 7}, "edge-b refuses: serving epoch 1 of d1, not 7"),
        ({"cut": 1}, "edge-b refuses: serving cut 0 of d1, not 1"),
        ({"fleet": "harbour"}, "edge-b refuses: it belongs to fleet yard, not harbour"),
    ],
)
def test_a_link_of_another_pipeline_is_refused_by_name(
    world: World, change: dict[str, object], reason: str
) -> None:
    up, down = Upstream(), Downstream()
    listener = world.listener(down)
    listener.serve(identity("edge-b"))
    link = world.link(up, who=identity("edge-a", **change))
    link.set_peer(*listener.address)
    assert wait_until(lambda: link.state == reason), link.state
    assert not up.states
    assert not down.taken


def test_serving_another_epoch_ends_the_connection_of_the_former(world: World) -> None:
    up, down = Upstream(), Downstream()
    link, listener = world.pair(up, down)
    listener.serve(identity("edge-b", epoch=2))
    assert wait_until(lambda: not link.is_connected)
    assert wait_until(lambda: "serving epoch 2 of d1, not 1" in link.state), link.state
    assert wait_until(lambda: [connected for connected, _ in up.states] == [True, False])


def test_serving_the_same_pipeline_again_changes_nothing(world: World) -> None:
    up, down = Upstream(), Downstream()
    link, listener = world.pair(up, down)
    listener.serve(identity("edge-b"))
    link.send(activation(), timeout_s=1)
    assert wait_until(lambda: up.answers)
    assert len(up.states) == 1


def test_an_answer_whose_connection_is_gone_is_dropped(world: World) -> None:
    """It must not raise in the consumer, and must not reach another connection."""
    up, down = Upstream(), Downstream(eager=False)
    link, listener = world.pair(up, down)
    link.send(activation(0), timeout_s=1)
    assert wait_until(lambda: down.taken)
    listener.serve(None)
    assert wait_until(lambda: not link.is_connected)
    taken, reply, release = down.taken[0]
    reply(answer_to(taken))
    release()
    listener.serve(identity("edge-b"))
    assert link.wait_ready(PATIENCE_S)
    down.eager = True
    link.send(activation(1), timeout_s=1)
    assert wait_until(lambda: up.answers)
    assert [answer.frame for answer in up.answers] == [1]


def test_the_newest_connection_for_a_cut_wins(world: World) -> None:
    """An upstream agent that restarted replaces the connection its former self left behind."""
    old_up, new_up, down = Upstream(), Upstream(), Downstream()
    _, listener = world.pair(old_up, down)
    newer = world.link(new_up)
    newer.set_peer(*listener.address)
    # Ousted, it comes back like any lost link: two that live take turns, at a growing pace.
    assert wait_until(lambda: len(old_up.states) >= 2)
    assert not old_up.states[1][0]
    assert "newer connection" in old_up.states[1][1]
    assert wait_until(lambda: new_up.states)
    assert new_up.states[0] == (True, "connected")


def test_a_new_address_moves_the_connection(world: World) -> None:
    up, down, other = Upstream(), Downstream(), Downstream()
    link, _ = world.pair(up, down)
    elsewhere = world.listener(other)
    elsewhere.serve(identity("edge-b"))
    link.set_peer(*elsewhere.address)
    assert wait_until(lambda: [connected for connected, _ in up.states] == [True, False, True])
    link.send(activation(9), timeout_s=PATIENCE_S)
    assert wait_until(lambda: other.taken)
    assert not down.taken


def test_closing_the_listener_is_noticed_at_once_and_once(world: World) -> None:
    up, down = Upstream(), Downstream()
    link, listener = world.pair(up, down)
    listener.close()
    assert wait_until(lambda: len(up.states) == 2)
    assert not up.states[1][0]
    assert up.states[1][1]
    assert wait_until(lambda: not link.is_connected)
    assert not wait_until(lambda: len(up.states) > 2, limit_s=0.3)


def test_closing_the_link_frees_a_waiting_sender(world: World) -> None:
    up, down = Upstream(), Downstream(eager=False)
    link, _ = world.pair(up, down, credit_count=1)
    link.send(activation(0), timeout_s=1)
    errors: list[LinkError] = []

    def waiting() -> None:
        try:
            link.send(activation(1), timeout_s=60)
        except LinkError as error:
            errors.append(error)

    thread = threading.Thread(target=waiting)
    thread.start()
    link.close()
    thread.join(PATIENCE_S)
    assert len(errors) == 1


def test_closing_ends_every_thread(world: World) -> None:
    """Within a second; nothing may outlive an agent that changes its pipeline."""
    before = set(threading.enumerate())
    up, down = Upstream(), Downstream()
    link, listener = world.pair(up, down)
    link.close()
    listener.close()
    link.close()
    listener.close()

    def left() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread not in before}

    assert wait_until(lambda: not left(), limit_s=1.5), left()


def test_a_tensor_that_cannot_travel_costs_no_credit(world: World) -> None:
    up, down = Upstream(), Downstream()
    link, _ = world.pair(up, down, credit_count=1)
    with pytest.raises(ModelError, match="'x'"):
        link.send(activation(0, {"x": np.zeros(2, np.complex64)}), timeout_s=1)
    link.send(activation(1), timeout_s=1)
    assert wait_until(lambda: up.answers)


def test_a_consumer_that_fails_does_not_stop_the_hop(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Its frame comes back as dropped with the reason, its credit too; the next frame passes."""
    up = Upstream()

    def fails_on_zero(taken: Activation, reply: object, release: Callable[[], None]) -> None:
        release()
        if taken.frame == 0:
            raise ValueError("boom")
        reply(answer_to(taken))  # type: ignore[operator]

    listener = world.new_listener(fails_on_zero, 1)
    world.stack.callback(listener.close)
    listener.serve(identity("edge-b"))
    link = world.link(up)
    link.set_peer(*listener.address)
    link.send(activation(0), timeout_s=PATIENCE_S)
    link.send(activation(1), timeout_s=PATIENCE_S)
    assert wait_until(lambda: len(up.answers) == 2)
    assert "boom" in up.answers[0].dropped
    assert up.answers[1].dropped == ""
    assert "on_activation failed for frame 0" in caplog.text
