"""quantize, as a user meets it."""

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from edgekit.builder.quantize.score import AccuracyDrop
from edgekit.cli import lowering_show
from edgekit.cli import quantize as verb
from edgekit.errors import ConfigError, EdgeKitError, ModelError, PlanError
from edgekit.runtime.ort import OrtSession
from tests.builder.quantize.quantize_nets import frames, net, pictures, write_pictures
from tests.graphs import saved

BAD_DROP = AccuracyDrop(
    metric="top-1", picture_count=50, before=0.9, after=0.8,
    drop_pp=10.0, low_pp=5.0, high_pp=15.0,
)  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A network, how its pixels are fed, and pictures to calibrate on."""
    saved(net(), tmp_path / "net.onnx")
    (tmp_path / "pixels.toml").write_text(
        'resize = "stretch"\nscale = 0.00392156862745098\ncolor = "bgr"\n'
    )
    write_pictures(tmp_path / "pictures", pictures(18))
    return tmp_path


def quantized(world: Path, *more: object) -> Result:
    arguments = [
        world / "net.onnx", "--calibrate", f"images:{world / 'pictures'}",
        "--out", world / "int8.onnx", "--preprocess", world / "pixels.toml",
        "--target", "tensorrt", "--calibrator", "minmax", *more,
    ]  # fmt: skip
    result = CliRunner().invoke(verb.command, list(map(str, arguments)))
    if isinstance(result.exception, EdgeKitError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_the_file_written_runs_and_the_report_has_every_number(world: Path) -> None:
    """Chosen precision, calibrator, sizes, operators in float with reasons; what is not known."""
    report = json.loads(quantized(world, "--json").stdout)
    assert (report["chosen"], report["written"]) == ("int8", str(world / "int8.onnx"))
    assert (report["calibrator"], report["calibration_frames"]) == ("minmax", 18)
    assert {one["name"] for one in report["float_operators"]} == {"head", "flat", "decode"}
    assert report["int8_bytes"] == (world / "int8.onnx").stat().st_size
    assert report["speed_up"] is report["accuracy"] is None
    assert sum("not known" in reason for reason in report["reasons"]) == 2
    rows = {row["precision"]: row for row in report["precisions"]}
    assert list(rows) == ["fp32", "fp16", "int8"]
    assert rows["int8"]["bytes"] == report["int8_bytes"]
    assert rows["fp16"]["bytes"] < rows["fp32"]["bytes"] == report["float_bytes"]
    assert all(row["memory_bytes"] > 0 for row in rows.values())
    kinds = {node.op_type for node in onnx.load(world / "int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    given = frames(1)[0]
    want, got = (
        OrtSession(world / name).run(given)["logits"] for name in ("net.onnx", "int8.onnx")
    )
    assert abs(want - got).max() < 0.1 * abs(want).max()


def test_the_report_for_people_says_what_stays_in_float_and_why(world: Path) -> None:
    text = quantized(world).output
    assert "chosen" in text and "int8" in text
    assert "no layer behind it averages its error away" in text
    assert "give --evaluate" in text


def test_a_model_beyond_the_limit_is_refused_with_the_loss_table(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written, and the worst layers are named."""

    class Bad:
        digests: frozenset[str] = frozenset()

        def compare(self, *_: object) -> AccuracyDrop:
            return BAD_DROP

    monkeypatch.setattr(verb, "evaluation_set", lambda *_: Bad())
    tables: list[str] = []
    monkeypatch.setattr(lowering_show, "show_table", lambda title, *_, **__: tables.append(title))
    with pytest.raises(PlanError, match="loses more than 1 pp"):
        quantized(world, "--evaluate", "boxes:x")
    assert "what int8 loses, worst first" in tables
    assert not (world / "int8.onnx").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--max-accuracy-drop", 1), "nothing to be measured on"),
        (("--keep-float", "none,stem"), "neither auto nor none nor names"),
        (("--evaluate", "somewhere"), "names no held-out set"),
        (("--evaluate", "boxes:somewhere"), "needs a detector"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    world: Path, more: tuple[object, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        quantized(world, *more)


def test_a_model_without_a_card_asks_how_pixels_are_fed(world: Path) -> None:
    """Guessing would calibrate on numbers that the model never sees."""
    arguments = [str(world / "net.onnx"), "--calibrate", f"images:{world / 'pictures'}"]
    result = CliRunner().invoke(verb.command, [*arguments, "--out", str(world / "int8.onnx")])
    assert isinstance(result.exception, ConfigError)
    assert "--preprocess" in result.exception.hint


def test_an_older_file_is_not_replaced_unasked(world: Path) -> None:
    (world / "int8.onnx").write_bytes(b"older")
    with pytest.raises(ConfigError, match="exists"):
        quantized(world)
    assert (world / "int8.onnx").read_bytes() == b"older"


def test_what_was_quantized_is_not_quantized_again(world: Path) -> None:
    quantized(world)
    (world / "int8.onnx").rename(world / "net.onnx")
    with pytest.raises(ModelError, match="quantized already"):
        quantized(world)
