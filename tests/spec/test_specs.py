"""Facts are strict: unknown fields, wrong units and impossible values are refused by name."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError, EdgeKitError, ModelError, TrustError
from edgekit.spec.agent_config import AgentConfig
from edgekit.spec.base import load, parse_json, parse_toml, save, to_json, write_atomically
from edgekit.spec.card import ModelCard
from edgekit.spec.fleet import Device, Fleet, local_fleet
from edgekit.spec.manifest import FileEntry, Manifest
from edgekit.spec.messages import AnswerReport, Detection, HopTime, Quantiles
from edgekit.spec.plan import Placement, Plan
from edgekit.spec.tensors import TensorSpec
from edgekit.spec.topics import Topics, last_level

DIGEST = "0" * 64


def test_a_misspelt_field_is_refused_with_its_place() -> None:
    """A silently ignored key is an afternoon lost."""
    text = b'name = "f"\n[[device]]\nname = "a"\nspeed = 2.0\n'
    with pytest.raises(ConfigError, match=r"fleet\.toml .*`speed`.*device\[0\]"):
        parse_toml(text, Fleet, origin="fleet.toml")


def test_a_link_to_nowhere_is_refused() -> None:
    """Typing errors in device names are common."""
    text = b'name = "f"\n[[device]]\nname = "a"\n[[link]]\nfrom = "a"\nto = "b"\n'
    with pytest.raises(ConfigError, match="'b', which is no device"):
        parse_toml(text, Fleet, origin="fleet.toml")


def test_a_link_in_the_wrong_unit_is_refused() -> None:
    """ "100 Mbps/s" must not become a number."""
    text = (
        b'name = "f"\n[[device]]\nname = "a"\n[[device]]\nname = "b"\n'
        b'[[link]]\nfrom = "a"\nto = "b"\nbandwidth = "100 Mbps/s"\n'
    )
    with pytest.raises(ConfigError, match="unknown unit"):
        parse_toml(text, Fleet, origin="fleet.toml")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_or_a_clear_error(data: bytes) -> None:
    """A fuzzed manifest must never crash an agent with another exception."""
    try:
        parse_json(data, Manifest, origin="manifest.json")
    except EdgeKitError as error:
        assert error.hint


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a//b", "a/../../b", "", "a\\b"])
def test_a_manifest_path_cannot_leave_the_bundle(path: str) -> None:
    """Zip-slip, for manifests."""
    with pytest.raises(TrustError, match="leaves the bundle"):
        FileEntry(path=path, sha256=DIGEST, size_bytes=1)


def test_the_deployment_id_is_the_digest_of_what_is_in_the_bundle() -> None:
    """Two bundles with one id would be switched half and half."""
    one = FileEntry(path="a", sha256=DIGEST, size_bytes=1)
    other = FileEntry(path="a", sha256=DIGEST, size_bytes=2)
    ids = {
        Manifest(model="m", model_sha256=DIGEST, files=(entry,)).deployment_id
        for entry in (one, one, other)
    }
    assert len(ids) == 2


def test_values_survive_json_and_toml(tmp_path: Path) -> None:
    """What is saved is what is loaded."""
    fleet = local_fleet(3)
    for name in ("fleet.json", "fleet.toml"):
        save(fleet, tmp_path / name)
        assert load(tmp_path / name, Fleet) == fleet


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Complete or not at all."""
    path = tmp_path / "x.json"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomically("not bytes", path)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The commonest error of all."""
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.toml"):
        load(tmp_path / "nowhere.toml", AgentConfig)


def test_hop_certificates_come_all_three_or_not_at_all() -> None:
    """Half a TLS configuration must not fall back to plain text."""
    text = (
        b'device = "a"\nfleet = "f"\nbroker = "mqtt://h"\nstore = "s"\n'
        b'[hop]\ncertificate = "c.pem"\n'
    )
    with pytest.raises(ConfigError, match="belong together"):
        parse_toml(text, AgentConfig, origin="agent.toml")


def test_answers_are_documented_json() -> None:
    """Other programs read these keys."""
    report = AnswerReport(
        stream="main", run="r", frame=0, captured_unix_s=1.0, age_ms=2.0,
        detections=(Detection(label="person", score=0.9, box=(1.0, 2.0, 3.0, 4.0)),),
        hops=(HopTime(source="a", target="b", bytes=3, ms=0.5),),
    )  # fmt: skip
    text = to_json(report, indent=0).decode()
    assert '"detections":[{"label":"person","score":0.9,"box":[1.0,2.0,3.0,4.0]}]' in text
    assert '"from":"a","to":"b"' in text
    assert parse_json(text.encode(), AnswerReport, origin="t") == report


def test_a_plan_with_a_device_twice_or_a_missing_cut_is_refused() -> None:
    """An agent could not tell which shard is its own."""
    spec = TensorSpec(name="x", dtype="float32", shape=(1, 3, 8, 8))
    placement = Placement(
        device="a", shard="s", inputs=(spec,), outputs=(spec,), work_flop=1, weight_bytes=0
    )
    common = {
        "model": "m",
        "model_sha256": DIGEST,
        "rule": "auto",
        "model_inputs": (spec,),
        "model_outputs": (spec,),
    }
    with pytest.raises(ConfigError, match="0 cuts"):
        Plan(placements=(placement, placement), cuts=(), **common)
    assert Plan(placements=(placement,), cuts=(), **common).stage_of("b") is None


def test_a_tensor_knows_its_bytes_and_refuses_odd_dtypes() -> None:
    """Bytes decide where to cut."""
    assert TensorSpec(name="x", dtype="float16", shape=(1, 2, 3)).nbytes == 12
    with pytest.raises(ModelError, match="complex64"):
        TensorSpec(name="x", dtype="complex64", shape=(1,))


def test_cards_refuse_a_zero_std() -> None:
    """Division by zero would give a model of nans."""
    text = (
        b'name = "m"\nlabels = ["a"]\n[input]\nstd = [1.0, 0.0, 1.0]\n[output]\ndecoder = "yolox"\n'
    )
    with pytest.raises(ConfigError, match="must not be 0"):
        parse_toml(text, ModelCard, origin="model.toml")


@pytest.mark.parametrize("name", ["", "a/b", "a+b", "a#", "a b"])
def test_names_that_break_topics_are_refused(name: str) -> None:
    """An MQTT wildcard in a device name would listen to everybody."""
    with pytest.raises(ConfigError):
        Device(name=name)
    with pytest.raises(ConfigError):
        Topics(fleet=name)


def test_topics_end_in_the_device_and_the_kind() -> None:
    """The only place where topic names are made."""
    topic = Topics(fleet="f").status("edge-a")
    assert topic == "edgekit/f/device/edge-a/status"
    assert last_level(topic, 2) == "edge-a"


def test_quantiles_of_nothing_are_zero_and_of_one_value_that_value() -> None:
    """The first second of a stream must not crash the page."""
    assert Quantiles.of([]) == Quantiles()
    assert Quantiles.of([5.0]) == Quantiles(p50=5.0, p95=5.0, p99=5.0)
