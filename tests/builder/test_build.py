"""Building: a proved bundle or nothing, and the same bytes every time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.builder.build import build_bundle
from edgekit.bundle.bundle import open_bundle
from edgekit.errors import ConfigError, EdgeKitError, ModelError, PlanError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.fleet import local_fleet
from tests.graphs import model, residual_model, saved

CARD = ModelCard(name="test", labels=("x",), output=OutputCard(decoder="yolox"))


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return saved(residual_model(), tmp_path / "net.onnx")


def test_a_bundle_holds_a_plan_that_a_fleet_can_follow(net: Path, tmp_path: Path) -> None:
    """What leaves one device is what enters the next."""
    result = build_bundle(
        net, fleet=local_fleet(3), out=tmp_path / "b", rule=("early,r0", "early,sum"), card=CARD
    )
    bundle = open_bundle(tmp_path / "b")
    plan = bundle.plan
    assert bundle == result.bundle
    assert [placement.device for placement in plan.placements] == ["edge-a", "edge-b", "edge-c"]
    assert [cut.names for cut in plan.cuts] == [("r0", "early"), ("early", "sum")]
    for index, cut in enumerate(plan.cuts):
        assert plan.placements[index].outputs == cut.tensors == plan.placements[index + 1].inputs
    assert plan.placements[0].inputs == plan.model_inputs
    assert plan.placements[-1].outputs == plan.model_outputs
    assert sum(p.work_flop for p in plan.placements) == result.workload.work_flop
    assert (plan.rule, bundle.card) == ("given", CARD)
    assert [one.precision for one in plan.placements] == ["fp32"] * len(plan.placements)


def test_golden_vectors_are_what_the_shards_give(net: Path, tmp_path: Path) -> None:
    """A device checks itself against them."""
    build_bundle(net, fleet=local_fleet(2), out=tmp_path / "b")
    bundle = open_bundle(tmp_path / "b")
    for index in range(2):
        golden = bundle.golden(index)
        assert golden is not None
        got = OrtSession(bundle.shard(index), optimization="extended").run(dict(golden.inputs))
        assert got.keys() == golden.outputs.keys()
        assert all(np.array_equal(got[name], golden.outputs[name]) for name in got)


def test_one_device_gets_the_whole_model(net: Path, tmp_path: Path) -> None:
    """Not splitting is a plan, too."""
    for rule, count in (("none", 2), ("auto", 1)):
        result = build_bundle(
            net, fleet=local_fleet(count), out=tmp_path / "b", rule=rule, force=True
        )
        assert len(result.bundle.plan.placements) == 1
        assert result.bundle.plan.rule == rule


def test_a_card_may_be_found_once_the_model_is_known(net: Path, tmp_path: Path) -> None:
    """Families are recognised from outputs."""
    seen = []

    def find(loaded: object) -> ModelCard:
        seen.append(loaded)
        return CARD

    result = build_bundle(net, fleet=local_fleet(2), out=tmp_path / "b", card=find)
    assert result.bundle.card == CARD
    assert len(seen) == 1


BROKEN: list[tuple[type[EdgeKitError], dict[str, object]]] = [
    (PlanError, {"rule": "nothing"}),
    (ConfigError, {"input_shapes": {"image": (1, 2, 9, 9)}}),
    (PlanError, {"fleet": local_fleet(20)}),
]


@pytest.mark.parametrize(("error", "changes"), BROKEN)
def test_a_build_that_fails_leaves_nothing(
    net: Path, tmp_path: Path, error: type[EdgeKitError], changes: dict[str, object]
) -> None:
    """Neither a bundle nor half of one."""
    options: dict[str, object] = {"fleet": local_fleet(2), "out": tmp_path / "b", **changes}
    with pytest.raises(error):
        build_bundle(net, **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [net]


def test_a_split_that_changes_numbers_is_not_shipped(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact before fast: the proof runs on every build."""
    import edgekit.builder.lowered as module

    real = module.split_model

    def wrong(*arguments: object) -> list[onnx.ModelProto]:
        shards = list(real(*arguments))  # type: ignore[arg-type]
        for tensor in shards[0].graph.initializer:
            array = onnx.numpy_helper.to_array(tensor) * np.float32(1.001)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        return shards

    monkeypatch.setattr(module, "split_model", wrong)
    with pytest.raises(ModelError, match="away from the whole model"):
        build_bundle(net, fleet=local_fleet(2), out=tmp_path / "b")
    assert list(tmp_path.iterdir()) == [net]


def test_large_golden_vectors_are_left_out(
    net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle should be as small as its weights."""
    monkeypatch.setattr("edgekit.builder.self_tests.MAX_GOLDEN_BYTES", 10)
    build_bundle(net, fleet=local_fleet(2), out=tmp_path / "b")
    assert open_bundle(tmp_path / "b").golden(0) is None


def test_quantised_models_say_so(tmp_path: Path) -> None:
    """The plan names the precision."""
    from onnx import TensorProto, helper

    weights = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
        helper.make_node("QLinearMatMul", ["q", "s", "z", "q", "s", "z", "s", "z"], ["m"]),
        helper.make_node("DequantizeLinear", ["m", "s", "z"], ["out"]),
    ]
    proto = model(nodes, {"image": [4, 4]}, ["out"], weights=weights)
    assert proto.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    result = build_bundle(
        saved(proto, tmp_path / "q.onnx"), fleet=local_fleet(2), out=tmp_path / "b", rule="m"
    )
    assert [one.precision for one in result.bundle.plan.placements] == ["int8"] * 2
    assert result.bundle.plan.cuts[0].tensors[0].dtype == "uint8"


def test_two_processes_build_the_same_bytes(net: Path, tmp_path: Path) -> None:
    """Whatever the seed of Python's hashes, the clock, the folder."""
    script = (
        "import sys; from pathlib import Path; from edgekit.spec.fleet import local_fleet;"
        "from edgekit.builder.build import build_bundle;"
        "r = build_bundle(Path(sys.argv[1]), fleet=local_fleet(2), out=Path(sys.argv[2]));"
        "print(r.bundle.deployment_id)"
    )
    found = []
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(net), str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        found.append(done.stdout.strip())
    assert found[0] == found[1]
    one, two = (
        {p.relative_to(tmp_path / s): p.read_bytes() for p in (tmp_path / s).rglob("*.*")}
        for s in ("1", "2")
    )
    assert one == two
    assert len(one) == 6
