"""profile list and profile show as a user meets them."""

import json
import sys
import types
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edgekit.cli.main import cli, main
from edgekit.cli.profile import command as profile
from edgekit.errors import ConfigError, EdgeKitError
from edgekit.spec.base import save
from edgekit.spec.profile import Ceiling, Conditions, DeviceProfile, Energy, PredictionError
from tests.graphs import residual_model, saved


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One's own profiles, away from those of whoever runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    folder = tmp_path / "xdg" / "edgekit" / "device_profiles"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def measured(own_folder: Path) -> DeviceProfile:
    board = DeviceProfile(
        name="board",
        source="measured",
        reference="a test",
        processor="1x core",
        memory="1 GiB",
        memory_bandwidth="9.1 GB/s",
        memory_bandwidth_sustained="7.9 GB/s",
        launch_overhead="4 us",
        session_overhead="35 us",
        runtime="onnxruntime 1.0.0",
        ceiling=(Ceiling(precision="fp32", compute="33 Gflop/s", sustained="27 Gflop/s"),),
        fused=("Conv+Relu",),
        error=PredictionError(
            shard_count=221,
            model_count=12,
            mape_percent=4.8,
            within_10_percent=93.1,
            worst_percent=19.0,
        ),
        conditions=Conditions(
            governor="performance",
            temperature_before_celsius=48.0,
            temperature_after_celsius=61.0,
        ),
        energy=Energy(meter="usb csv", idle_w=2.7, busy_w=5.9),
    )
    save(board, own_folder / "board.toml")
    return board


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return saved(residual_model(), tmp_path / "net.onnx")


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(profile, list(map(str, arguments)))
    if isinstance(result.exception, EdgeKitError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_list_names_every_profile_and_how_it_is_known(measured: DeviceProfile) -> None:
    """Shipped ones as datasheets; one's own with its error, and that it is stale."""
    text = run("list").stdout
    for words in ("jetson-nano", "datasheet", "25.6 GB/s", "472 Gflop/s fp16 gpu",
                  "board", "measured, stale", "4.8 %", "peaks"):  # fmt: skip
        assert words in text


def test_list_goes_on_past_a_broken_file(own_folder: Path) -> None:
    """It is named on standard error."""
    (own_folder / "broken.toml").write_text("name = ")
    result = run("list", "--json")
    assert "jetson-nano" in {one["name"] for one in json.loads(result.stdout)["profiles"]}
    assert "broken.toml" in result.stderr


def test_show_says_what_a_datasheet_does_not_know() -> None:
    """ "not measured", never a zero that looks like a measurement."""
    text = run("show", "raspberry-pi-4").stdout
    for words in ("Cortex-A72", "12.8 GB/s", "48 Gflop/s", "3.75 flop/byte", "note: Peaks, not"):
        assert words in text
    assert text.count("not measured") == 7


def test_show_says_what_was_measured(measured: DeviceProfile) -> None:
    """Overheads, error, energy, conditions; and that another runtime measured them."""
    result = run("show", "board")
    for words in ("7.9 GB/s sustained", "4 us per kernel, 35 us per inference", "27 Gflop/s",
                  "4.8 % on average, 93 % of shards within 10 %, worst 19 %", "2.7 W idle",
                  "performance", "48 to 61 degrees"):  # fmt: skip
        assert words in result.stdout
    assert "stale: measured with onnxruntime 1.0.0" in result.stderr


def test_show_json_is_complete(net: Path) -> None:
    """Scripts read it; nothing else is on standard output."""
    document = json.loads(run("show", "jetson-nano", "--json", "--model", net).stdout)
    assert document["profile"]["name"] == "jetson-nano"
    assert document["stale"] == ""
    ridges = {(one["precision"], one["provider"]): one for one in document["ridges"]}
    assert ridges["fp16", "gpu"]["ridge_flop_per_byte"] == pytest.approx(472 / 25.6)
    kernels = document["model"]["kernels"]
    assert document["model"]["roofline_s"] == pytest.approx(
        sum(one["roofline_s"] for one in kernels)
    )
    assert {"Conv kxk", "Conv 1x1"} & {one["kind"] for one in kernels}


def test_show_puts_a_model_under_the_roofs(net: Path, tmp_path: Path) -> None:
    """As a table, and drawn."""
    pytest.importorskip("matplotlib")
    path = tmp_path / "roofline.png"
    result = run("show", "jetson-nano", "--model", net, "--provider", "gpu", "--plot", path)
    for words in ("net under the fp32 roof of gpu", "memory-bound", "not a prediction"):
        assert words in result.stdout
    assert path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match="exists"):
        run("show", "jetson-nano", "--plot", path)
    run("show", "jetson-nano", "--plot", path, "--force")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("jetson-nan",), "no device profile"),
        (("h200", "--provider", "cpu"), "no ceiling for cpu"),
        (("jetson-nano", "--precision", "int8"), "no ceiling for int8"),
        (("jetson-nano", "--plot", "x.jpg"), "cannot be written"),
        (("jetson-nano", "--input", "x=1x3x8x8"), "no model"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments: tuple[str, ...], words: str) -> None:
    """With what to write instead."""
    with pytest.raises(ConfigError, match=words):
        run("show", *arguments)


def test_a_missing_matplotlib_is_answered_with_the_pip_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base install can show everything but the drawing."""
    monkeypatch.delitem(sys.modules, "edgekit.profiler.roofline_plot", raising=False)
    for name in ("matplotlib", "matplotlib.axes", "matplotlib.figure", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "48 Gflop/s" in run("show", "raspberry-pi-4").stdout
    plot = str(tmp_path / "roofline.png")
    monkeypatch.setattr(sys, "argv", ["edgekit", "profile", "show", "h200", "--plot", plot])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == ConfigError.exit_code
    assert "pip install 'edgekit[builder]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ((), (False, None)),
        (("--quick",), (True, None)),
        (("run", "--quick"), (True, None)),
        (("--out", "show"), (False, "show")),
    ],
)
def test_without_a_subcommand_profile_measures(
    arguments: tuple[str, ...], seen: tuple[bool, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The common case is the short one; options go to run as they are."""
    calls = []

    @click.command("run")
    @click.option("--quick", is_flag=True)
    @click.option("--out")
    def measure(quick: bool, out: str | None) -> None:
        calls.append((quick, out))

    module = types.ModuleType("edgekit.cli.profile_run")
    module.command = measure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "edgekit.cli.profile_run", module)
    run(*arguments)
    assert calls == [seen]


def test_help_names_all_three_without_importing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help must come at once, and is not a measurement."""
    monkeypatch.setitem(sys.modules, "edgekit.cli.profile_run", None)
    result = CliRunner().invoke(cli, ["profile", "--help"])
    assert result.exit_code == 0
    for name in ("run", "list", "show"):
        assert f"  {name} " in result.output
