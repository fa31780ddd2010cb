"""Accuracy on the whole test split, as the agents answer: emulation changes speed, not answers.

In:  Cases.  Out: an Accuracy for every plan that computes or sends something of its own, as JSON.
Devices are as fast as this machine here. Plans of several fleets that cut at the same place with
the same strategies, precisions and codecs are one.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from edgekit.errors import EdgeKitError
from edgekit.spec.base import Spec, load, save
from edgekit.spec.fleet import Fleet
from edgekit.spec.planning import Candidate
from tests.bench.paper_case import OURS, Case
from tests.bench.paper_runs import Workshop, described
from tests.bench.paper_world import Pictures, as_file_name
from tests.testbed.agents import run_stream
from tests.testbed.plain import PlainBed

WHOLE = "edge-only"
"""The method whose accuracy is that of the model as it came: whole, fp32, frames raw."""
Say = Callable[[str], None]


class Accuracy(Spec, frozen=True, kw_only=True):
    """Of one way to compute one network."""

    dataset: str
    network: str
    how: str
    """The plan without names of devices."""
    methods: tuple[str, ...]
    """"FLEET METHOD" that planned it."""
    frames: int = 0
    accuracy_percent: float = 0.0
    problem: str = ""

    @property
    def key(self) -> dict[str, str]:
        """What tells it from all others."""
        return {"what": "accuracy", "data": self.dataset, "net": self.network, "how": self.how}


def how(candidate: Candidate) -> str:
    """What a plan computes and sends, whoever does it."""
    text = described(candidate)
    for device in sorted(set(candidate.devices), key=len, reverse=True):
        text = text.replace(f"{device}(", "(")
    return text


def accuracies(
    cases: Sequence[Case],
    pictures: Pictures,
    out: Path,
    *,
    methods: tuple[str, ...] = (WHOLE, OURS),
    say: Say,
) -> Iterator[Accuracy]:
    """Of the plans of ``methods`` in ``cases``, which are of one network."""
    wanted: dict[str, tuple[Case, Candidate]] = {}
    users: dict[str, list[str]] = {}
    for case in cases:
        for method in methods:
            candidate = case.plans.get(method)
            if candidate is not None:
                wanted.setdefault(how(candidate), (case, candidate))
                users.setdefault(how(candidate), []).append(f"{case.fleet.name} {method}")
    for text, (case, candidate) in wanted.items():
        blank = Accuracy(
            dataset=case.dataset, network=case.network, how=text, methods=tuple(users[text])
        )
        path = out / f"{as_file_name(blank.key)}.json"
        if path.exists():
            yield msgspec.structs.replace(load(path, Accuracy), methods=blank.methods)
            continue
        say(" ".join(blank.key.values()))
        found = _measured(case, candidate, blank, pictures)
        save(found, path)
        yield found


def _measured(case: Case, candidate: Candidate, blank: Accuracy, pictures: Pictures) -> Accuracy:
    fleet: Fleet = case.fleet
    equals = tuple(msgspec.structs.replace(one, relative_speed=1.0) for one in fleet.device)
    bed = PlainBed(msgspec.structs.replace(fleet, device=equals, host_speed=0.0))
    with tempfile.TemporaryDirectory(prefix="edgekit-paper-") as home:
        bundle = Workshop(case, Path(home)).bundle(candidate)
        if isinstance(bundle, str):
            return msgspec.structs.replace(blank, problem=bundle)
        try:
            done = run_stream(bed, bundle, pictures.source(len(pictures.truth)))
        except EdgeKitError as error:
            return msgspec.structs.replace(blank, problem=error.what)
    return msgspec.structs.replace(
        blank,
        frames=len(done.reports),
        accuracy_percent=pictures.accuracy_percent(done.reports),
    )
