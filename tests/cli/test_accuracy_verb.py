"""accuracy, as a user meets it: measured once, gone on with, and planned with."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from edgekit.cli.accuracy import command as accuracy
from edgekit.cli.plan import command as plan
from edgekit.errors import ConfigError, EdgeKitError
from edgekit.profiler import fleet_profiles
from edgekit.profiler.library import FoundProfile, Library
from edgekit.spec.accuracy import AccuracyReport
from edgekit.spec.base import load, save
from edgekit.spec.profile import Ceiling, KernelTime
from tests.builder.quantize.quantize_nets import net, pictures, write_pictures
from tests.cli.test_plan_verb import YARD
from tests.graphs import saved
from tests.profiler.test_fleet_profiles import HERE

INTEGERS = msgspec.structs.replace(
    HERE,
    ceiling=(*HERE.ceiling, Ceiling(precision="int8", compute="4 Top/s")),
    kernel=(*HERE.kernel, KernelTime(key="QLinearAdd", sizes=(1000,), time_s=1e-6)),
    memory_bandwidth="40 GB/s",
    fused=("Conv+Relu", "QDQ Conv", "QDQ Conv+Relu", "QDQ GlobalAveragePool"),
)
"""The machine of the test, with integers that are much faster than floats."""


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network, pictures to calibrate on, pictures with classes, a fleet, a known machine."""
    known = Library(found=(FoundProfile(profile=INTEGERS, path=tmp_path / "h.toml"),), problems=())
    monkeypatch.setattr(fleet_profiles, "list_profiles", lambda: known)
    saved(net(seed=1), tmp_path / "net.onnx")
    (tmp_path / "pixels.toml").write_text(
        'resize = "stretch"\nscale = 0.00392156862745098\ncolor = "bgr"\n'
    )
    write_pictures(tmp_path / "pictures", pictures(18))
    for split, seed in (("train", 5), ("test", 6)):
        for kind in range(2):
            write_pictures(tmp_path / "set" / split / str(kind), pictures(10, seed=seed + 9 * kind))
    (tmp_path / "fleet.toml").write_text(YARD.format(bandwidth="1 Gbit/s"))
    return tmp_path


def measured(world: Path, *more: object) -> Result:
    arguments = [
        world / "net.onnx", "--calibrate", f"images:{world / 'pictures'}",
        "--evaluate", f"classes:{world / 'set'}", "--out", world / "accuracy.toml",
        "--preprocess", world / "pixels.toml", "--calibrator", "minmax", "--cut", "c1",
        "--codecs", "fp16,uint8+zstd", *more,
    ]  # fmt: skip
    return invoked(accuracy, arguments)


def planned(world: Path, *more: object) -> Result:
    arguments = [
        world / "net.onnx", "--fleet", world / "fleet.toml", "--measure", "never",
        "--accuracy", world / "accuracy.toml", "--source-size", "32x32", *more,
    ]  # fmt: skip
    return invoked(plan, arguments)


def invoked(command: object, arguments: list[object]) -> Result:
    result = CliRunner().invoke(command, list(map(str, arguments)))  # type: ignore[arg-type]
    if isinstance(result.exception, EdgeKitError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_what_was_measured_is_shown_saved_drawn_and_planned_with(world: Path) -> None:
    """int8 is chosen within the limit, and refused by name at a limit of zero."""
    text = measured(world, "--plot", world / "accuracy.png").stdout
    for part in ("int8 S3 of the whole model", "fp16 S3 of the whole model", "uint8+zstd",
                 "qdq", "jpeg-90", "no block that could be folded"):  # fmt: skip
        assert part in text, part
    assert (world / "accuracy.png").stat().st_size > 1000
    report = load(world / "accuracy.toml", AccuracyReport)
    lossy = [
        msgspec.structs.replace(one, drop_pp=0.5, low_pp=0.2, high_pp=0.8)
        if one.precision == "int8"
        else one
        for one in report.shard
    ]
    save(msgspec.structs.replace(report, shard=tuple(lossy)), world / "accuracy.toml")
    chosen = json.loads(planned(world, "--max-accuracy-drop", 1, "--json").stdout)["chosen"]
    assert [one["precision"] for one in chosen["stages"]] == ["int8"]
    assert chosen["accuracy_drop_pp"] >= 0.8
    as_measured = json.loads(
        planned(world, "--max-accuracy-drop", 0.6, "--drops", "as-measured", "--json").stdout
    )["chosen"]
    assert [one["precision"] for one in as_measured["stages"]] == ["int8"]
    refused = planned(world, "--max-accuracy-drop", 0.6).stdout
    assert "in int8: max_accuracy_drop_pp" in refused and "upper end" in refused


def test_a_second_run_measures_nothing_again(world: Path) -> None:
    """The file is as it was; more codecs are added to it."""
    measured(world)
    before = load(world / "accuracy.toml", AccuracyReport)
    measured(world)
    assert load(world / "accuracy.toml", AccuracyReport) == before
    document = json.loads(measured(world, "--codecs", "fp16,uint8+zstd,uint8", "--json").stdout)
    assert len(document["codec"]) == len(before.codec) + 1


def test_the_file_of_another_model_is_refused_before_anything_is_done(world: Path) -> None:
    """By both commands."""
    measured(world, "--precisions", "", "--codecs", "")
    saved(net(seed=2), world / "net.onnx")
    with pytest.raises(ConfigError, match="of another model, net"):
        measured(world)
    with pytest.raises(ConfigError, match="--accuracy was measured of net"):
        planned(world)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precisions", "int4"], "--precisions"),
        (["--codecs", "png"], "for camera frames"),
        (["--strategies", "S3+Ss"], "makes no difference"),
        (["--plot", "a.txt"], "--plot"),
        (["--out", "a.json"], "no .toml file"),
        (["--out", "nowhere/a.toml"], "no folder"),
        (["--evaluate", "classes"], "no held-out set"),
    ],
)
def test_options_that_cannot_be_carried_out_are_refused_by_name(
    world: Path, options: list[str], words: str
) -> None:
    """Before minutes of work."""
    with pytest.raises(ConfigError, match=words):
        measured(world, *options)
