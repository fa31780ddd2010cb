"""Several ways to run one shard: the best that works, the next when it fails, no lost frame."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

from edgekit.errors import ConfigError, DeviceError, TrustError
from edgekit.runtime.echo import EchoSession
from edgekit.runtime.ladder import LadderSession, Rung
from edgekit.runtime.session import Session
from edgekit.spec.tensors import Array, TensorSpec

X = TensorSpec(name="x", dtype="float32", shape=(1, 2))
Y = TensorSpec(name="y", dtype="float32", shape=(1, 2))
INPUT = {"x": np.ones((1, 2), np.float32)}


def times(factor: float, *, fails_at: int = 1 << 30) -> EchoSession:
    """Multiplies; from its ``fails_at``-th run on it fails."""
    runs: list[int] = []

    def function(inputs: dict[str, Array]) -> dict[str, Array]:
        runs.append(1)
        if len(runs) >= fails_at:
            raise DeviceError(f"gpu {factor} fell off", hint="look at dmesg")
        return {"y": inputs["x"] * np.float32(factor)}

    return EchoSession((X,), (Y,), function=function)


def ladder(*sessions: Callable[[], Session], wrong: float = -1.0) -> LadderSession:
    def prove(session: Session) -> None:
        if session.run(INPUT)["y"][0, 0] == wrong:
            raise TrustError(f"{wrong:g} is wrong", hint="x")

    rungs = [Rung(f"way {index}", load) for index, load in enumerate(sessions)]
    return LadderSession(rungs, prove=prove)


def value(session: Session) -> float:
    return float(session.run(INPUT)["y"][0, 0])


def no_driver() -> Session:
    raise DeviceError("no driver", hint="x")


def test_the_best_way_serves_and_worse_ones_are_not_even_loaded() -> None:
    """Memory of a board is not for spares that may never run."""
    found = ladder(lambda: times(2), lambda: pytest.fail("loaded"))
    assert (value(found), found.name, found.reasons) == (2.0, "way 0", ())
    assert (found.inputs, found.outputs) == ((X,), (Y,))


def test_a_way_that_does_not_load_or_computes_wrongly_is_passed_over_with_its_reason() -> None:
    found = ladder(no_driver, lambda: times(3), lambda: times(2), wrong=3.0)
    assert (value(found), found.name) == (2.0, "way 2")
    assert found.reasons == ("way 0: no driver", "way 1: 3 is wrong")


def test_where_no_way_works_the_last_one_s_error_is_raised() -> None:
    with pytest.raises(TrustError, match="3 is wrong"):
        ladder(no_driver, lambda: times(3), wrong=3.0)


def test_a_way_that_fails_while_serving_is_replaced_within_the_same_frame() -> None:
    """The proof is run 1, two frames are 2 and 3."""
    found = ladder(lambda: times(4, fails_at=4), no_driver, lambda: times(2))
    assert [value(found) for _ in range(4)] == [4.0, 4.0, 2.0, 2.0]
    assert found.name == "way 2"
    assert found.reasons == ("way 0: gpu 4 fell off", "way 1: no driver")


def test_when_the_last_way_fails_the_frame_fails_and_the_next_is_tried_again() -> None:
    """A passing trouble must not end the stream."""
    found = ladder(lambda: times(2, fails_at=2))
    for _ in range(2):
        with pytest.raises(DeviceError, match="fell off"):
            found.run(INPUT)


def test_inputs_that_do_not_fit_cost_no_rung() -> None:
    """They are the caller's fault, and would fail everywhere."""
    found = ladder(lambda: times(4, fails_at=2), lambda: times(2))
    with pytest.raises(DeviceError, match="fell off"):
        found.run({"x": np.ones((1, 3), np.float32)})
    with pytest.raises(DeviceError, match="fell off"):
        found.run({})
    assert (found.name, found.reasons) == ("way 0", ())


def test_an_engine_put_on_top_serves_and_when_it_fails_the_rung_below_answers() -> None:
    closed: list[str] = []
    found = ladder(lambda: times(2))
    found.put_on_top("engine", times(8, fails_at=3), close=lambda: closed.append("engine"))
    assert [value(found), value(found), found.name] == [8.0, 8.0, "engine"]
    assert [value(found), value(found), found.name] == [2.0, 2.0, "way 0"]
    assert (closed, found.reasons) == (["engine"], ("engine: gpu 8 fell off",))
    found.close()
    assert closed == ["engine"]


def test_closing_takes_the_engine_down_once() -> None:
    closed: list[str] = []
    found = ladder(lambda: times(2))
    found.put_on_top("engine", times(8), close=lambda: closed.append("engine"))
    found.close()
    found.close()
    assert (closed, value(found)) == (["engine"], 2.0)


def test_an_engine_with_other_tensors_is_not_put_on_top() -> None:
    """An int8 output where the next device expects uint8 would be silent nonsense."""
    found = ladder(lambda: times(2))
    other = TensorSpec(name="y", dtype="int8", shape=(1, 2))
    for wrong in (EchoSession((X,), (other,)), EchoSession((X, Y), (Y,))):
        with pytest.raises(ConfigError, match=r"engine (gives y int8\[1x2\]|takes x .*, y)"):
            found.put_on_top("engine", wrong, close=lambda: None)
    assert value(found) == 2.0


def test_a_swap_happens_between_frames_and_none_is_lost() -> None:
    """Frames come from another thread all the while."""
    found, seen, stop = ladder(lambda: times(2)), list[float](), threading.Event()

    def stream() -> None:
        while not stop.is_set():
            seen.append(value(found))

    thread = threading.Thread(target=stream)
    thread.start()
    for _ in range(20):
        found.put_on_top("engine", times(8, fails_at=5), close=lambda: None)
        while found.name == "engine":
            pass
    stop.set()
    thread.join()
    assert set(seen) == {2.0, 8.0}
    assert sum(one == 8.0 for one in seen) == 20 * 4
