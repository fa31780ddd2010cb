"""A fleet with a device that runs TensorRT: what its bundle holds, and what is not built."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

from edgekit.builder import self_tests
from edgekit.builder.build import BuildResult, build_bundle
from edgekit.builder.forwarding import Forwarding
from edgekit.builder.quantize.frames import CalibrationFrames
from edgekit.builder.quantize.shard_order import Lowering
from edgekit.builder.tensorrt_build import engines
from edgekit.builder.tensorrt_build.obstacles import obstacles_of
from edgekit.builder.verify import verify_bundle
from edgekit.bundle.bundle import engine_path, open_bundle, write_bundle
from edgekit.cli.build import command
from edgekit.errors import ConfigError, EdgeKitError, ModelError, TrustError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.base import save
from edgekit.spec.fleet import Device, Fleet
from tests.builder.quantize.quantize_nets import frames, net
from tests.graphs import model, saved

PI, ORIN, PC = Device(name="pi"), Device(name="orin", provider="tensorrt"), Device(name="pc")
FLEET = Fleet(name="mixed", device=(PI, ORIN, PC))
GIVEN = CalibrationFrames(
    tensors=tuple(one["image"] for one in frames(16)), digests=frozenset({"seen"}), uri="memory"
)


@pytest.fixture(autouse=True)
def nobody_else_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of obstacles decides; a parser takes seconds to load."""
    monkeypatch.setattr(engines, "parser_obstacles", lambda data: ("", ()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return saved(net(), tmp_path / "net.onnx")


def built(path: Path, fleet: Fleet = FLEET, **options: object) -> BuildResult:
    settings: dict[str, object] = {"rule": ("r0", "c1"), "out": path.parent / "b", "force": True}
    return build_bundle(path, fleet=fleet, **(settings | options))  # type: ignore[arg-type]


def lowered(path: Path, *precisions: str) -> BuildResult:
    asked = dict(zip(("pi", "orin", "pc"), precisions, strict=True))
    order = Lowering(precision=asked, frames=GIVEN, calibrators=("minmax",), race_s=0.01)  # type: ignore[arg-type]
    return built(path, lowering=order)


def test_the_recipe_lies_beside_its_shard_and_the_manifest_covers_it(path: Path) -> None:
    """Of the one device that runs TensorRT, and of no other."""
    result = built(path)
    bundle = open_bundle(path.parent / "b")
    assert [one.engine for one in bundle.plan.placements] == ["", engine_path(1), ""]
    recipe = bundle.engine(1)
    assert recipe is not None and result.engines == {engine_path(1): recipe}
    assert bundle.engine(0) is None
    entry = bundle.manifest.entry(bundle.plan.placements[1].shard)
    assert (recipe.shard, recipe.shard_sha256) == (entry.path, entry.sha256)
    assert bundle.manifest.entry(recipe.golden).size_bytes > 0
    file = bundle.path(engine_path(1))
    file.write_bytes(file.read_bytes().replace(b"900.0", b"999.0"))
    with pytest.raises(TrustError, match=r"engine\.json"):
        open_bundle(path.parent / "b")


def test_a_plan_that_names_a_recipe_its_bundle_lacks_is_not_trusted(path: Path) -> None:
    """Without it no engine would be built, and nobody would know."""
    plan = built(path).bundle.plan
    write_bundle(path.parent / "bare", plan=plan, shards=(b"0", b"1", b"2"))
    with pytest.raises(TrustError, match=r"shard-1\.engine\.json"):
        open_bundle(path.parent / "bare")


def test_the_same_build_gives_the_same_bytes(path: Path) -> None:
    one, other = (built(path, out=path.parent / name) for name in ("one", "other"))
    assert one.bundle.deployment_id == other.bundle.deployment_id


def test_a_fleet_without_tensorrt_has_no_recipes(path: Path) -> None:
    """ONNX Runtime's own providers need none."""
    others = (PI, Device(name="x", provider="cuda"), Device(name="y", provider="tensorrt-ep"))
    result = built(path, Fleet(name="x", device=others))
    assert not result.engines
    assert not [one.path for one in result.bundle.manifest.files if "engine" in one.path]


def test_an_engine_has_golden_vectors_however_large(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None may serve that was not compared with them; those of others are left out."""
    monkeypatch.setattr(self_tests, "MAX_GOLDEN_BYTES", 10)
    bundle = built(path).bundle
    assert [bundle.golden(index) is None for index in range(3)] == [True, False, True]


def test_behind_a_camera_that_forwards_the_recipe_finds_its_vectors(path: Path) -> None:
    """Golden vectors are counted by devices, shards by shards."""
    fleet = Fleet(name="x", device=(ORIN, PC))
    bundle = built(path, fleet, rule=("r0",), forwarding=Forwarding(device="cam")).bundle
    recipe = bundle.engine(1)
    assert recipe is not None and recipe.shard == bundle.plan.placements[1].shard
    assert recipe.golden == "golden/shard-1.npz"
    golden = bundle.golden(1)
    assert golden is not None and list(golden.inputs) == [one.name for one in recipe.shapes]


@pytest.mark.parametrize(
    "precisions",
    [
        "int8 int8 int8", "int8 fp32 int8", "int8 fp16 int8", "fp32 int8 fp32", "fp16 int8 fp16",
        "fp32 fp32 int8", "int8 fp32 fp32", "fp32 fp16 fp32",
    ],
)  # fmt: skip
def test_shards_of_any_precisions_are_the_whole_and_tensorrt_takes_its_own(
    path: Path, precisions: str
) -> None:
    """x86 integers before and behind it are unsigned: they become signed, or are cast."""
    before, own, behind = precisions.split()
    result = lowered(path, before, own, behind)
    plan, shard = result.bundle.plan, onnx.load(result.bundle.shard(1))
    assert obstacles_of(shard) == ()
    assert all(check.is_within_limit for check in result.report.checks)
    if "fp16" not in precisions:
        equal, compared = result.report.bit_equal(result.report.exact_level)
        assert equal == compared > 0
    assert verify_bundle(result.bundle, path, seeds=(0,)).is_ok
    recipe = result.bundle.engine(1)
    assert recipe is not None and recipe.precision == plan.placements[1].precision == own
    if own == "fp16":
        halves = [one for one in shard.graph.initializer if len(one.dims) == 4]
        assert halves and {one.data_type for one in halves} == {onnx.TensorProto.FLOAT16}
    kinds = [[one.dtype for one in cut.tensors] for cut in plan.cuts]
    if before == behind == "int8":
        assert kinds == ([["int8"]] * 2 if own == "int8" else [["uint8"]] * 2)
    golden = result.bundle.golden(1)
    assert golden is not None
    got = OrtSession(result.bundle.shard(1), optimization="extended").run(dict(golden.inputs))
    for name, want in golden.outputs.items():
        scale = float(np.abs(want.astype(np.float64)).max()) or 1.0
        assert float(np.abs(got[name].astype(np.float64) - want).max()) <= 0.02 * scale


def test_a_shard_that_tensorrt_refuses_is_named_before_it_is_proved(tmp_path: Path) -> None:
    """With device, operator, node and file, and what to try; nothing is written."""
    weights = {"s": np.array(0.1, np.float32), "z": np.array(3, np.uint8)}
    nodes = [
        helper.make_node("Relu", ["image"], ["r"], "relu"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["q"], "round"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["f"], "back"),
        helper.make_node("Neg", ["f"], ["out"], "neg"),
    ]
    proto = model(nodes, {"image": (1, 2, 4, 4)}, ["out"], weights=weights)
    path = saved(proto, tmp_path / "net.onnx")
    fleet = Fleet(name="x", device=(PI, ORIN))
    with pytest.raises(ModelError, match=r"orin refuses QuantizeLinear \(round\).*shard-1") as bad:
        built(path, fleet, rule=("r",))
    assert bad.value.what.endswith("its integers are uint8, not int8; and 1 more operator")
    assert "--precision int8" in bad.value.hint
    assert list(tmp_path.iterdir()) == [path]
    built(path, fleet, rule=("f",))  # the same operators on the other device


def test_an_accelerator_that_cannot_be_used_is_refused_before_anything_is_written(
    path: Path,
) -> None:
    fleet = Fleet(name="x", device=(Device(name="orin", provider="tensorrt-dla"),))
    with pytest.raises(ConfigError, match="fp16 only"):
        built(path, fleet, rule="none")
    assert not (path.parent / "b").exists()


def run(path: Path, *more: str) -> str:
    save(FLEET, path.parent / "fleet.toml")
    options = ["--fleet", path.parent / "fleet.toml", "--out", path.parent / "b", "--decoder",
               "none", "--cut", "r0", "--cut", "c1", *more]  # fmt: skip
    result = CliRunner().invoke(command, [str(path), *map(str, options)])
    if isinstance(result.exception, EdgeKitError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_summary_tells_what_is_built_on_the_device(path: Path) -> None:
    said = run(path)
    line = next(line for line in said.splitlines() if "GPU" in line)
    assert " ".join(line.split()) == ("orin fp32 float32 1x8x32x32 float32 1x8x32x32 1.1 GB GPU")


def test_the_summary_as_json_holds_the_recipes(path: Path) -> None:
    found = json.loads(run(path, "--json"))
    (recipe,) = found["engines"]
    shard = path.parent / "b" / recipe["shard"]
    assert recipe["shard_sha256"] == hashlib.sha256(shard.read_bytes()).hexdigest()
    assert [one["engine"] for one in found["placements"]] == ["", engine_path(1), ""]
