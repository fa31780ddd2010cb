"""What a person sees of an engine on its way: how far it is, and what runs the shard meanwhile."""

import pytest
from canned import CONNECTED, PLAN, status, telemetry

from edgekit.dashboard.fleet_rows import device_rows
from edgekit.dashboard.state import DeviceView, FleetView
from edgekit.spec.messages import EngineTelemetry


def facts(engine: EngineTelemetry | None, runs_on: str = "onnxruntime cpu") -> dict[str, str]:
    device = DeviceView(
        name="edge-a",
        status=status(),
        telemetry=telemetry(runs_on=runs_on, engine=engine),
        telemetry_heard_s=0.0,
    )
    view = FleetView("yard")
    view.devices["edge-a"] = device
    rows = device_rows(view, PLAN, CONNECTED, 0.5)
    return dict(rows[0].facts)


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (EngineTelemetry(state="building", share=0.434, elapsed_s=200.0), "building 43 %"),
        (EngineTelemetry(state="building", elapsed_s=200.0), "building, 3 min"),
        (EngineTelemetry(state="building", share=7.0), "building 100 %"),
        (EngineTelemetry(state="proving", elapsed_s=4.2), "proving, 4 s"),
        (EngineTelemetry(state="failed", problem="no driver"), "none"),
        (EngineTelemetry(state="serving", text="TensorRT 10.3.0"), None),
        (None, None),
    ],
)
def test_the_state_of_an_engine_is_said_in_a_word_and_a_number(
    engine: EngineTelemetry | None, words: str | None
) -> None:
    said = facts(engine)
    assert said.get("engine") == words
    assert said["runs on"] == "onnxruntime cpu"


def test_a_device_that_says_nothing_of_it_shows_nothing_of_it() -> None:
    """An agent of an older version."""
    assert not {"engine", "runs on"} & facts(None, runs_on="").keys()
