"""What only the fakes can do: cut cables, stop brokers, let clients vanish, settle."""

import pytest
from hop_world import Downstream, Upstream, activation, answer_to, identity, wait_until

from edgekit.errors import LinkError
from edgekit.transport.mailbox import Mailbox
from edgekit.transport.memory import MemoryHopLink, MemoryHopListener, MemoryNetwork
from edgekit.transport.memory_mqtt import MemoryBroker


def test_a_cut_cable_loses_the_frames_under_way_and_restoring_it_resumes() -> None:
    network, up, down = MemoryNetwork(), Upstream(), Downstream(eager=False)
    listener = MemoryHopListener(network, on_activation=down.on_activation)
    listener.serve(identity("edge-b"))
    link = MemoryHopLink(network, identity(), on_answer=up.on_answer, on_state=up.on_state)
    link.set_peer(*listener.address)
    link.send(activation(0), timeout_s=1)
    network.cut()
    assert "cannot reach memory" in link.state
    assert listener.settle()
    taken, reply, release = down.taken[0]
    reply(answer_to(taken))
    release()
    network.restore()
    assert link.wait_ready(1)
    link.send(activation(1), timeout_s=1)
    assert listener.settle()
    down.taken[1][1](answer_to(down.activations[1]))
    assert wait_until(lambda: up.answers)
    assert [answer.frame for answer in up.answers] == [1]
    assert [connected for connected, _ in up.states] == [True, False, True]
    link.close()
    listener.close()


def test_a_link_waits_for_a_listener_that_comes_later() -> None:
    network, up = MemoryNetwork(), Upstream()
    link = MemoryHopLink(network, identity(), on_answer=up.on_answer, on_state=up.on_state)
    link.set_peer("memory", 1)
    assert not link.wait_ready(0)
    listener = MemoryHopListener(network, on_activation=Downstream().on_activation)
    link.set_peer(*listener.address)
    assert not link.wait_ready(0)
    listener.serve(identity("edge-b"))
    assert link.wait_ready(0)
    link.close()
    listener.close()


def test_stopping_the_broker_is_told_and_forgets_what_was_retained() -> None:
    broker = MemoryBroker()
    told: list[tuple[bool, str]] = []
    taken: list[tuple[str, bytes]] = []
    session = broker.session("one", on_connection=lambda *state: told.append(state))
    session.subscribe("t/#", lambda topic, payload: taken.append((topic, payload)))
    session.connect()
    session.publish("t/kept", b"1", retain=True)
    assert broker.settle()
    broker.stop()
    session.publish("t/queued", b"2")
    with pytest.raises(LinkError, match="did not acknowledge"):
        session.publish("t/queued", b"3", wait_s=0.01)
    with pytest.raises(LinkError, match="is not published"):
        session.publish("t/now", b"4", qos=0)
    with pytest.raises(LinkError, match="Connection refused"):
        broker.session("two").connect()
    broker.start()
    assert broker.settle()
    assert taken == [("t/kept", b"1"), ("t/queued", b"2"), ("t/queued", b"3")]
    assert [connected for connected, _ in told] == [True, False, True]
    assert not broker.retained
    session.close()


def test_the_queue_of_an_offline_session_is_bounded() -> None:
    broker = MemoryBroker()
    session = broker.session("one")
    session.connect()
    broker.stop()
    for _ in range(1000):
        session.publish("t", b"")
    with pytest.raises(LinkError, match="1000 messages wait"):
        session.publish("t", b"")
    session.close()


def test_a_vanished_client_leaves_its_will_retained() -> None:
    broker = MemoryBroker()
    taken: list[bytes] = []
    watcher, victim = broker.session("watcher"), broker.session("victim", will=("s", b"offline"))
    watcher.connect()
    victim.connect()
    watcher.subscribe("s", lambda _, payload: taken.append(payload))
    victim.publish("s", b"online", retain=True)
    victim.vanish()
    assert broker.settle()
    assert taken == [b"online", b"offline"]
    assert broker.retained == {"s": b"offline"}
    watcher.close()


def test_settling_covers_what_handlers_publish() -> None:
    broker = MemoryBroker()
    sessions = [broker.session(f"s{number}") for number in range(3)]
    taken: list[str] = []
    for number, session in enumerate(sessions):
        session.connect()
        session.subscribe(
            f"chain/{number}",
            lambda topic, payload, session=session, number=number: (  # type: ignore[misc]
                taken.append(topic),
                session.publish(f"chain/{number + 1}", payload),
            ),
        )
    for _ in range(50):
        taken.clear()
        sessions[2].publish("chain/0", b"go")
        assert broker.settle()
        assert taken == ["chain/0", "chain/1", "chain/2"]
    for session in sessions:
        session.close()


def test_a_mailbox_runs_calls_in_order_and_survives_one_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mailbox, done = Mailbox("test-mailbox"), []
    mailbox.post(lambda: done.append(1))
    mailbox.post(lambda: 1 // 0)
    mailbox.post(lambda: done.append(2))
    assert mailbox.settle(5)
    assert done == [1, 2]
    assert "a call failed on test-mailbox" in caplog.text
    mailbox.close()
    mailbox.post(lambda: done.append(3))
    assert done == [1, 2]
