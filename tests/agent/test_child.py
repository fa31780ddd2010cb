"""A verb in a process of its own: what it says, how it ends, how it is ended."""

import threading
import time

import pytest

from edgekit.agent.child import Child, how_it_ended


def test_an_error_of_the_verb_keeps_its_words_and_its_hint() -> None:
    """The operator reads them a network away."""
    said = "warning: something\nedgekit: DeviceError: load 3.1 on 4 cores. Try: stop what runs.\n"
    ended = how_it_ended(7, said)
    assert (ended.problem, ended.hint) == ("load 3.1 on 4 cores", "stop what runs")


@pytest.mark.parametrize(
    ("code", "said", "words"),
    [
        (1, "Traceback (most recent call last):\nValueError: odd\n", "ValueError: odd"),
        (1, "", "said nothing"),
        (-9, "", "SIGKILL"),
        (-250, "", "250"),
        (2, "Error: No such option: --for-agent\n", "No such option"),
    ],
)
def test_whatever_else_ends_it_is_named(code: int, said: str, words: str) -> None:
    """A crash, the kernel out of memory, an older edgekit."""
    ended = how_it_ended(code, said)
    assert not ended.is_ok
    assert words in ended.problem
    assert ended.hint


@pytest.mark.integration
def test_its_lines_arrive_and_its_success_is_known() -> None:
    """A real process."""
    lines: list[bytes] = []
    assert Child(["--version"], lines.append).run(limit_s=60.0).is_ok
    assert lines[0].startswith(b"edgekit")


@pytest.mark.integration
@pytest.mark.parametrize("how", ["stop", "limit"])
def test_one_that_would_go_on_for_ever_is_ended(how: str) -> None:
    """Asked to, or because its time is over."""
    arguments = ["link", "--serve", "--port", "0", "--bind", "127.0.0.1"]
    serving = threading.Event()
    child = Child(arguments, lambda line: serving.set())
    ends: list[bool] = []
    limit_s = 120.0 if how == "stop" else 3.0
    thread = threading.Thread(target=lambda: ends.append(child.run(limit_s=limit_s).is_ok))
    thread.start()
    if how == "stop":
        assert serving.wait(60.0)
        child.stop()
    thread.join(60.0)
    assert ends == [False]


@pytest.mark.integration
def test_a_child_that_was_stopped_before_it_began_ends_at_once() -> None:
    """The cancellation may be faster than the process."""
    child = Child(["link", "--serve", "--port", "0", "--bind", "127.0.0.1"], lambda line: None)
    child.stop()
    began_s = time.monotonic()
    assert not child.run(limit_s=600.0).is_ok
    assert time.monotonic() - began_s < 60.0
