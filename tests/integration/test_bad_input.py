"""Bad input on the command line: one clear error with the fix, nothing half-written."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.world import data

pytestmark = [pytest.mark.integration]

MODEL = "models/light_person_detector/light_person_detector.onnx"


def edgekit(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def assert_refused(
    done: subprocess.CompletedProcess[str], *words: str, code: int, absent: Path | None = None
) -> None:
    """One sentence that says what, and what to try; the exit code of its class; nothing left."""
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("edgekit: ")]
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Try: " in errors[0]
    for word in words:
        assert word in errors[0], errors[0]
    if absent is not None:
        assert not absent.exists()
        assert not list(absent.parent.glob(f".{absent.name}*"))


def test_a_truncated_onnx_file_is_refused(tmp_path: Path) -> None:
    """A download that broke off."""
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(data(MODEL).read_bytes()[:100_000])
    out = tmp_path / "bundle"
    done = edgekit("build", broken, "--devices", 2, "--out", out)
    assert_refused(done, "broken.onnx", code=3, absent=out)


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    """A custom layer of somebody's training framework."""
    import onnx
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in "xy"]
    node = helper.make_node("FancyAttention", ["x"], ["y"], domain="my.lab")
    graph = helper.make_graph([node], "g", value[:1], value[1:])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.lab", 1)]
    path, out = tmp_path / "fancy.onnx", tmp_path / "bundle"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    done = edgekit("build", path, "--devices", 2, "--out", out, "--decoder", "none")
    assert_refused(done, "FancyAttention", code=3, absent=out)


def test_a_cut_at_a_tensor_that_does_not_exist_is_refused_with_near_names(tmp_path: Path) -> None:
    """A typing error."""
    out = tmp_path / "bundle"
    done = edgekit("build", data(MODEL), "--devices", 2, "--out", out, "--cut", "input.17")
    assert_refused(done, "input.17", "input.175", code=4, absent=out)


def test_a_cut_that_is_not_legal_is_refused_with_the_tensors_that_also_cross(
    tmp_path: Path,
) -> None:
    """One branch of several."""
    out = tmp_path / "bundle"
    done = edgekit("build", data(MODEL), "--devices", 2, "--out", out, "--cut", "input.283")
    assert_refused(done, "not legal", "--cut input.175,input.283", code=4, absent=out)


def test_a_wrong_input_size_is_refused(tmp_path: Path) -> None:
    """The model says 192x192."""
    out = tmp_path / "bundle"
    done = edgekit(
        "build", data(MODEL), "--devices", 2, "--out", out, "--input", "images=1x3x100x100"
    )
    assert done.returncode in (2, 3), done.stderr
    assert_refused(done, "images", "192", code=done.returncode, absent=out)


def test_a_model_of_no_known_family_is_refused_with_the_list(tmp_path: Path) -> None:
    """Neither a card, nor --decoder, nor familiar outputs."""
    out = tmp_path / "bundle"
    model = data("models/resnet_cifar10/resnet20_cifar10.onnx")
    done = edgekit("build", model, "--devices", 2, "--out", out)
    assert_refused(done, "yolox", "nanodet", "--decoder", code=2, absent=out)


def test_a_missing_video_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """The commonest typing error."""
    summary = tmp_path / "out.json"
    done = edgekit(
        "demo", "--model", data(MODEL), "--source", "file:nowhere.mp4", "--headless",
        "--json", summary, "--folder", tmp_path / "demo",
    )  # fmt: skip
    assert done.returncode in (2, 7), done.stderr
    assert_refused(done, "nowhere.mp4", code=done.returncode, absent=summary)
    assert not (tmp_path / "demo").exists()


def test_an_output_in_a_folder_that_does_not_exist_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    """Not after an hour of video."""
    for option in ("--json", "--detections", "--save"):
        done = edgekit("demo", "--headless", "--frames", 5, option, tmp_path / "no" / "out")
        assert_refused(done, option, "there is no folder", code=2)


def test_a_broker_that_is_down_is_refused_with_the_command_to_start_one(tmp_path: Path) -> None:
    """Port 1 answers to nobody."""
    done = edgekit(
        "demo", "--model", data(MODEL), "--source", "scene:yard", "--headless", "--frames", 5,
        "--broker", "mqtt://127.0.0.1:1",
    )  # fmt: skip
    assert_refused(done, "127.0.0.1:1", "mosquitto", code=6)


def test_an_agent_with_a_misspelt_field_is_refused(tmp_path: Path) -> None:
    """agent.toml is written by hand."""
    config = tmp_path / "agent.toml"
    config.write_text('device = "a"\nfleet = "f"\nbroker = "mqtt://x"\nstor = "s"\n')
    done = edgekit("agent", "--config", config)
    assert_refused(done, "agent.toml", "stor", code=2)


def test_an_agent_whose_broker_is_down_ends_with_the_fix(tmp_path: Path) -> None:
    """A fresh board has nothing to serve without its broker."""
    config = tmp_path / "agent.toml"
    config.write_text(
        f'device = "a"\nfleet = "f"\nbroker = "mqtt://127.0.0.1:1"\nstore = "{tmp_path}/store"\n'
    )
    assert_refused(edgekit("agent", "--config", config), "127.0.0.1:1", code=6)


def test_a_bundle_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    """By verify and by deploy: nothing unverified ever runs."""
    out = tmp_path / "bundle"
    assert edgekit("build", data(MODEL), "--devices", 2, "--out", out).returncode == 0
    shard = out / "shards/shard-1.onnx"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    assert_refused(edgekit("verify", out, "--against", data(MODEL)), "shard-1.onnx", code=5)
    done = edgekit("deploy", out, "--broker", "mqtt://127.0.0.1:1", "--fleet", "f")
    assert_refused(done, "shard-1.onnx", code=5)
