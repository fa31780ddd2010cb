"""The far side of ``edgekit fleet profile``: a verb that runs as the child of an agent.

In: standard input, whose end means that the agent is gone; SIGTERM, which means stop.
Out: progress, one JSON object a line on standard output.
Either end is as orderly as Ctrl-C: temporary files are removed, the journal is whole.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from edgekit.spec.base import to_json
from edgekit.spec.messages import ProfileStep

_PATIENCE_S = 5.0
"""A single call into the runtime may take this long before the interruption is noticed."""


@contextlib.contextmanager
def lines_for_agent() -> Iterator[Callable[[str, float], None]]:
    """While inside, the agent hears what is done, and takes this process with it when it ends."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_with_agent, name="parent", daemon=True).start()
    yield _tell


def wait_for_parent() -> None:
    """Return when standard input closes: whoever started this process has ended."""
    while os.read(0, 4096):  # not sys.stdin: its lock would stop the interpreter at exit
        pass


def _tell(text: str, share: float) -> None:
    step = ProfileStep(text=text, share=min(1.0, max(0.0, share)))
    # A pipe without a reader is no reason to stop: the end of standard input is.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(to_json(step, indent=0).decode() + "\n")
        sys.stdout.flush()


def _end_with_agent() -> None:
    wait_for_parent()
    os.kill(os.getpid(), signal.SIGTERM)
    # Two measurements at once would disturb each other, so this one ends, whatever it is at.
    threading.Event().wait(_PATIENCE_S)
    os._exit(1)
