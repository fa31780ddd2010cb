"""Which session is faster, with pretended ones."""

import pytest

from edgekit.builder.race import MIN_GAIN, is_faster, race
from edgekit.runtime.echo import EchoSession
from edgekit.spec.tensors import Array


def test_the_slower_session_shows() -> None:
    """Medians in the order of the sessions."""
    fast, slow = (EchoSession((), (), delay_s=delay_s) for delay_s in (0.0, 0.004))
    fast_s, slow_s = race([fast, slow], {}, budget_s=0.05)
    assert is_faster(fast_s, slow_s)
    assert not is_faster(slow_s, fast_s)


def test_sessions_run_turn_by_turn() -> None:
    """Else a neighbour who wakes up halfway would decide."""
    calls: list[str] = []

    def echo(name: str) -> EchoSession:
        def answer(inputs: dict[str, Array]) -> dict[str, Array]:
            calls.append(name)
            return inputs

        return EchoSession((), (), function=answer)

    race([echo("a"), echo("b"), echo("c")], {}, budget_s=0)
    assert "".join(calls) == "abc" * (2 + 7)


@pytest.mark.parametrize(("share", "faster"), [(0.5, True), (1.0, False), (1 - MIN_GAIN, False)])
def test_a_gain_within_the_noise_is_none(share: float, faster: bool) -> None:
    """Two runs of one model differ by as much."""
    assert is_faster(share * 2.0, 2.0) is faster


def test_a_processor_that_changes_its_speed_meanwhile_fools_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The slow half begins a little earlier for one session; medians alone would differ thrice."""
    clock = [0.0]
    monkeypatch.setattr("edgekit.builder.race.time.perf_counter", lambda: clock[0])
    warm_up = [1.0, 1.0]
    times_s = {
        "first": iter([*warm_up, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0]),
        "other": iter([*warm_up, 1.5, 1.5, 3.0, 3.0, 3.0, 3.0, 3.0]),
    }

    def session(name: str) -> EchoSession:
        def answer(inputs: dict[str, Array]) -> dict[str, Array]:
            clock[0] += next(times_s[name])
            return inputs

        return EchoSession((), (), function=answer)

    assert race([session("first"), session("other")], {}, budget_s=0.0) == (1.0, 1.5)
