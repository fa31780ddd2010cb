"""build --precision and --codec, as a user meets them."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgekit.builder.verify import verify_bundle
from edgekit.bundle.bundle import REPORT_PATH, open_bundle
from edgekit.cli import build_lowering, lowering_show
from edgekit.cli.build import command as build
from edgekit.cli.build_lowering import parse_precisions
from edgekit.errors import ConfigError, EdgeKitError, ModelError, PlanError, TrustError
from edgekit.runtime.ort import OrtSession
from edgekit.spec.base import save
from edgekit.spec.fleet import Device, Fleet, local_fleet
from tests.builder.quantize.quantize_nets import net, pictures, write_pictures
from tests.graphs import saved
from tests.plan_values import candidate, hop, plan_report, stage
from tests.world import DATA

INT8 = DATA / "models/mobilenet_v2_int8/mobilenet_v2_quant.onnx"


@pytest.fixture(autouse=True)
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in one test only: it takes a process for each shard."""
    if "int8_shards" not in request.node.name:
        monkeypatch.setattr(build_lowering, "measure_peak_bytes", lambda path: 1)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A network, how its pixels are fed, and pictures to calibrate on."""
    saved(net(), tmp_path / "net.onnx")
    (tmp_path / "pixels.toml").write_text(
        'resize = "stretch"\nscale = 0.00392156862745098\ncolor = "bgr"\n'
    )
    write_pictures(tmp_path / "pictures", pictures(18))
    return tmp_path


def built(world: Path, *more: object, model: Path | None = None) -> Result:
    arguments = [
        model or world / "net.onnx", "--devices", 2, "--cut", "r0", "--out", world / "bundle",
        "--decoder", "none", "--preprocess", world / "pixels.toml", "--calibrator", "minmax", *more,
    ]  # fmt: skip
    result = CliRunner().invoke(build, list(map(str, arguments)))
    if isinstance(result.exception, EdgeKitError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def calibrated(world: Path) -> tuple[str, str]:
    return "--calibrate", f"images:{world / 'pictures'}"


def test_int8_shards_are_cut_on_integers_proved_and_written_down(world: Path) -> None:
    """The bundle says what it holds; its report can be read later."""
    found = json.loads(
        built(world, "--precision", "int8", "--codec", "uint8+zstd", *calibrated(world), "--json")
        .stdout
    )  # fmt: skip
    bundle = open_bundle(world / "bundle")
    plan = bundle.plan
    assert [one.precision for one in plan.placements] == ["int8", "int8"]
    assert [(one.name, one.dtype) for one in plan.cuts[0].tensors] == [
        ("r0_QuantizeLinear_Output", "uint8")
    ]
    assert [one.name for one in plan.codecs] == ["fp32+zstd"]
    assert found["verified"]["bit_equal"] == found["verified"]["outputs_compared"] > 0
    report = msgspec.json.decode(bundle.read(REPORT_PATH))
    assert found["lowering"] == report
    assert report["bit_equal"] == report["outputs_compared"]
    for shard in report["shards"]:
        assert shard["bytes"] > 0 and shard["memory_bytes"] > 0 < shard["fp32_memory_bytes"]
        assert shard["times"]["how"] == "measured"
    for index in range(2):
        golden = bundle.golden(index)
        assert golden is not None
        got = OrtSession(bundle.shard(index), optimization="extended").run(dict(golden.inputs))
        assert all(np.array_equal(got[name], golden.outputs[name]) for name in got)


def test_a_lowered_bundle_is_verified_by_what_the_build_found(world: Path) -> None:
    """Integers are not within 1e-5 of floats, but no further off than was written down."""
    built(world, "--precision", "int8", *calibrated(world))
    report = verify_bundle(open_bundle(world / "bundle"), world / "net.onnx")
    assert report.is_ok and report.worst("extended") > 1e-5
    other = net(seed=1)
    saved(other, world / "net.onnx")
    with pytest.raises(TrustError):
        verify_bundle(open_bundle(world / "bundle"), world / "net.onnx")


def test_one_device_may_be_int8_and_the_other_not(world: Path) -> None:
    built(world, "--precision", "edge-a=int8", *calibrated(world))
    plan = open_bundle(world / "bundle").plan
    assert [one.precision for one in plan.placements] == ["int8", "fp32"]


def test_codecs_alone_leave_the_shards_as_they_are(world: Path) -> None:
    """The same files as without; only the plan differs."""
    built(world)
    plain = open_bundle(world / "bundle")
    shards = [plain.shard(index).read_bytes() for index in range(2)]
    assert not (world / "bundle" / REPORT_PATH).exists() and plain.plan.codecs == ()
    built(world, "--codec", "uint8-channel+lz4", *calibrated(world), "--force")
    coded = open_bundle(world / "bundle")
    assert [coded.shard(index).read_bytes() for index in range(2)] == shards
    (codec,) = coded.plan.codecs
    assert codec.name == "uint8-channel+lz4" and [one.name for one in codec.ranges] == ["r0"]


def test_principal_components_are_folded_into_the_shards_that_make_and_read_them(
    world: Path,
) -> None:
    """What crosses are the components; verify allows for those that were left out."""
    built(world, "--codec", "klt:0.3", *calibrated(world))
    bundle = open_bundle(world / "bundle")
    (codec,) = bundle.plan.codecs
    assert codec.name == "klt:0.3+zstd" and [one.name for one in codec.components]
    assert bundle.plan.cuts[0].names == tuple(one.name for one in codec.components)
    assert bundle.plan.placements[0].outputs == bundle.plan.cuts[0].tensors
    assert codec.deadline_s is None
    assert verify_bundle(bundle, world / "net.onnx").is_ok


def test_a_deadline_travels_with_the_codec(world: Path) -> None:
    built(world, "--codec", "klt:0.3", "--deadline", "40ms", *calibrated(world))
    (codec,) = open_bundle(world / "bundle").plan.codecs
    assert codec.deadline_s == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("codec", "deadline", "words"),
    [
        ("uint8", "40ms", "only klt can"),
        ("klt:0.5", "0 s", "--deadline is 0 s"),
        ("klt:0.5", "soon", "duration 'soon'"),
    ],
)
def test_deadlines_that_make_no_sense_are_refused(
    world: Path, codec: str, deadline: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        built(world, "--codec", codec, "--deadline", deadline, *calibrated(world))


def test_fp16_needs_no_pictures_and_says_whether_it_pays_here(world: Path) -> None:
    text = built(world, "--precision", "fp16", "--codec", "fp16").output
    assert "fp16 asked for" in text and "times as fast as fp32, measured" in text
    bundle = open_bundle(world / "bundle")
    assert [one.precision for one in bundle.plan.placements] == ["fp16", "fp16"]
    assert bundle.plan.placements[0].weight_bytes < 8 * 3 * 3 * 3 * 4
    assert verify_bundle(bundle, world / "net.onnx").is_ok


def test_people_are_told_what_each_shard_gained_and_what_stays_in_float(world: Path) -> None:
    text = built(world, "--precision", "int8", *calibrated(world)).output
    assert "int8 asked for" in text
    assert "no layer behind it averages its error away" in text
    assert "bit-equal to the lowered model" in text
    assert "give --evaluate" in text


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--precision", "int8"), "needs calibration pictures"),
        (("--precision", "auto"), "needs calibration pictures"),
        (("--codec", "klt:0.5"), "needs calibration pictures"),
        (("--max-accuracy-drop", 1), "nothing to be measured on"),
        (("--calibrate", "images:x"), "nothing to do"),
        (("--evaluate", "boxes:x"), "nothing to do"),
        (("--precision", "int4"), "names no precision"),
        (("--precision", "nobody=int8"), "which the fleet does not have"),
        (("--precision", "int8", "--precision", "fp32"), "says again"),
        (("--codec", "zip"), "there is no codec 'zip'"),
        (("--codec", "jpeg-90"), "carries pictures"),
        (("--keep-float", "none,stem"), "neither auto nor none nor names"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(
    world: Path, more: tuple[object, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        built(world, *more)
    assert not (world / "bundle").exists()


def test_too_few_pictures_are_refused(world: Path) -> None:
    write_pictures(world / "few", pictures(5))
    with pytest.raises(ConfigError, match="gives 5 calibration frames, 16 are needed"):
        built(world, "--precision", "int8", "--calibrate", f"images:{world / 'few'}")


def test_pictures_of_one_colour_are_refused(world: Path) -> None:
    flat = [np.full((32, 32, 3), 3 * number, np.uint8) for number in range(20)]
    write_pictures(world / "flat", flat)
    with pytest.raises(ConfigError, match="one colour all over"):
        built(world, "--precision", "int8", "--calibrate", f"images:{world / 'flat'}")


def test_an_operator_without_integer_kernel_is_named_with_the_way_out(world: Path) -> None:
    proto = net()
    proto.graph.node[2].op_type = "ConvTranspose"
    saved(proto, world / "net.onnx")
    with pytest.raises(ModelError, match="ConvTranspose") as caught:
        built(world, "--precision", "int8", *calibrated(world))
    assert "--keep-float" in caught.value.hint


@pytest.mark.skipif(not INT8.exists(), reason="the real models are not here")
def test_a_model_that_is_quantized_already_is_refused(world: Path) -> None:
    with pytest.raises(ModelError, match="quantized already") as caught:
        built(world, "--precision", "int8", "--cut", "none", *calibrated(world), model=INT8)
    assert "float model" in caught.value.hint


def test_too_much_loss_is_refused_with_the_table_and_nothing_is_written(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edgekit.builder.quantize.chain_judge as judge
    from tests.cli.test_quantize_verb import BAD_DROP

    monkeypatch.setattr(judge.ChainJudge, "drop", lambda *_: BAD_DROP)
    tables: list[str] = []
    monkeypatch.setattr(lowering_show, "show_table", lambda title, *_, **__: tables.append(title))
    with pytest.raises(PlanError, match="1 pp are allowed"):
        built(world, "--precision", "int8", *calibrated(world))
    assert tables == ["what int8 loses, worst first"]
    assert not (world / "bundle").exists()


def test_a_plan_with_int8_and_packed_integers_is_built_as_it_says(world: Path) -> None:
    """It needs pictures, and says so; a precision of one's own contradicts it."""
    fleet = Fleet(name="yard", device=(Device(name="camera"), Device(name="gateway")))
    chosen = candidate(
        "pipeline",
        [stage("camera", 4, until=("r0",)), stage("gateway", 6, after=("r0",))],
        [hop("camera", "gateway", 2, codec="qdq+zstd")],
    )
    first = msgspec.structs.replace(chosen.stages[0], precision="int8")
    chosen = msgspec.structs.replace(chosen, stages=(first, chosen.stages[1]))
    save(plan_report(chosen=chosen, model_sha256=""), world / "plan.json")
    save(fleet, world / "fleet.toml")
    arguments = [
        world / "net.onnx", "--fleet", world / "fleet.toml", "--plan", world / "plan.json",
        "--out", world / "bundle", "--decoder", "none", "--preprocess", world / "pixels.toml",
    ]  # fmt: skip

    def run(*more: str) -> None:
        result = CliRunner().invoke(build, [*map(str, arguments), *more])
        if isinstance(result.exception, EdgeKitError):
            raise result.exception
        assert result.exit_code == 0, result.output

    with pytest.raises(ConfigError, match="--calibrate"):
        run()
    with pytest.raises(ConfigError, match="--plan already says"):
        run("--precision", "fp32", *calibrated(world))
    run(*calibrated(world))
    plan = open_bundle(world / "bundle").plan
    assert [one.precision for one in plan.placements] == ["int8", "fp32"]
    assert [one.name for one in plan.codecs] == ["fp32+zstd"]
    assert plan.cuts[0].tensors[0].dtype == "uint8"


def test_a_precision_for_all_yields_to_one_for_a_device() -> None:
    found = parse_precisions(("int8", "edge-b=fp32"), local_fleet(2))
    assert found == {"*": "int8", "edge-b": "fp32"}
