"""From a checkpoint to ONNX: equal, readable, portable, reproducible."""

import hashlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekit.builder import export
from edgekit.builder.checkpoint import save_checkpoint
from edgekit.builder.export import export_module, export_onnx_bytes
from edgekit.builder.fold.torch_front import (
    block_names,
    fold_module,
    in_float64,
    relative_error,
)
from edgekit.builder.load import load_model
from edgekit.builder.probe import run_proto
from edgekit.builder.zoo.repvgg import RepVgg, RepVggA0
from edgekit.builder.zoo.table6 import Table6Detector
from edgekit.errors import ConfigError, ModelError
from edgekit.spec.fusion import STRATEGIES

SHAPE = (1, 3, 64, 96)


def settled(seed: int = 0) -> Table6Detector:
    """A small detector whose BatchNorms have seen some images."""
    detector = Table6Detector(width=0.125, depth=0.2, strides=(8, 16), seed=seed, input_shape=SHAPE)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(3):
            detector(torch.rand((4, 3, 64, 96), generator=generator))
    return detector.eval()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a network is slower on two cores, much slower if they are busy."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.fixture(scope="module")
def detector() -> Table6Detector:
    return settled()


@pytest.fixture(scope="module")
def exported(detector: Table6Detector) -> bytes:
    return export_module(detector, SHAPE)


def test_onnx_runtime_answers_as_the_trained_network(
    detector: Table6Detector, exported: bytes
) -> None:
    """On another image than the one the export checked itself with, at every optimisation level."""
    images = torch.rand(SHAPE, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        want = detector.decoded(images).numpy()
    proto = onnx.load_model_from_string(exported)
    for level in ("none", "extended", "all"):
        got = run_proto(proto, {"images": images.numpy()}, optimization=level)["output0"]
        assert np.abs(got - want)[:, :4].max() <= 1e-5 * np.abs(want[:, :4]).max()
        assert np.abs(got - want)[:, 4:].max() <= 1e-5


def test_the_file_is_one_that_every_device_loads(exported: bytes) -> None:
    """IR 8, opset 17, fixed shapes, the Ultralytics names and layout, one convolution per block."""
    proto = onnx.load_model_from_string(exported)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version == 8
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert [value.name for value in proto.graph.input] == ["images"]
    assert [value.name for value in proto.graph.output] == ["output0"]
    sizes = [d.dim_value for d in proto.graph.output[0].type.tensor_type.shape.dim]
    assert sizes == [1, 6, 12 * 8 + 6 * 4]
    kinds = {node.op_type for node in proto.graph.node}
    assert not kinds & {"BatchNormalization", "Identity", "Cast", "Shape", "Constant"}


def test_tensors_are_named_after_the_modules_that_make_them(exported: bytes) -> None:
    """These are the names that a user types after --cut."""
    proto = onnx.load_model_from_string(exported)
    made = [name for node in proto.graph.node for name in node.output]
    assert len(made) == len(set(made))
    for name in ("backbone.stem.act", "backbone.stages.2.1.act", "neck.descend.0.cat",
                 "heads.0.box.1"):  # fmt: skip
        assert name in made
    assert "backbone.stages.1.0.conv.weight" in {t.name for t in proto.graph.initializer}


def test_nothing_tells_where_it_was_made(exported: bytes) -> None:
    """The exporter writes stack traces with source paths into each node."""
    for trace in (b".py", b"/home", str(Path.cwd()).encode(), b"pkg.torch", b"edgekit.builder"):
        assert trace not in exported


def test_live_branches_can_be_exported_too(detector: Table6Detector, exported: bytes) -> None:
    """What folding is compared with; equal to the folded form through the same check."""
    multi = onnx.load_model_from_string(export_module(detector, SHAPE, fold=False))
    folded = onnx.load_model_from_string(exported)
    count = {
        name: sum(node.op_type == "Conv" for node in proto.graph.node)
        for name, proto in (("multi", multi), ("folded", folded))
    }
    assert count["multi"] > count["folded"]


@pytest.mark.integration
def test_two_processes_export_the_same_bytes(
    tmp_path: Path, detector: Table6Detector, exported: bytes
) -> None:
    """Builds are compared by hash."""
    path = tmp_path / "tiny.pt"
    save_checkpoint(detector, path)
    code = (
        "import sys, hashlib; from pathlib import Path\n"
        "from edgekit.builder.export import export_onnx_bytes\n"
        "print(hashlib.sha256(export_onnx_bytes(Path(sys.argv[1]))).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(path)], env={"PYTHONHASHSEED": seed, "PATH": ""},
            check=True, timeout=170, capture_output=True, text=True,
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.strip() == hashlib.sha256(exported).hexdigest()
    assert runs[0].stderr == ""


def test_a_checkpoint_loads_as_any_other_model_and_quietly(
    tmp_path: Path,
    detector: Table6Detector,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the shape asked for, not only at its own; the exporter's own chatter is not for users."""
    path = tmp_path / "tiny.pt"
    save_checkpoint(detector, path)
    before = logging.getLogger("torch.onnx").level
    with caplog.at_level(logging.INFO):
        model = load_model(path, input_shapes={"images": (1, 3, 32, 64)})
    assert [spec.shape for spec in model.inputs] == [(1, 3, 32, 64)]
    assert capfd.readouterr() == ("", "")
    assert {record.name.split(".")[0] for record in caplog.records} == {"edgekit"}
    assert logging.getLogger("torch.onnx").level == before


def test_an_export_that_is_not_equal_is_refused(
    monkeypatch: pytest.MonkeyPatch, exported: bytes
) -> None:
    """The comparison must be able to fail: here the exporter gives the graph of another network."""
    monkeypatch.setattr(export, "_traced", lambda *_: onnx.load_model_from_string(exported))
    with pytest.raises(ModelError, match=r"exported boxes differ by"):
        export_module(settled(seed=1), SHAPE)


@pytest.mark.parametrize(
    ("shape", "why"),
    [((1, 3, 64), "1x3x64"), ((1, 1, 64, 64), "1x1x64x64"), ((1, 3, 0, 64), "1x3x0x64"),
     ((1, 3, 400, 640), "640x400 px.*use 640x384")],
    ids=str,
)  # fmt: skip
def test_an_input_shape_that_does_not_fit_is_refused(
    detector: Table6Detector, shape: tuple[int, ...], why: str
) -> None:
    """Before the exporter starts, with one that fits."""
    with pytest.raises(ModelError, match=why):
        export_module(detector, shape)


def test_a_module_with_another_output_or_that_still_trains_is_refused() -> None:
    """Each with what to do instead, before the exporter starts."""
    with pytest.raises(ModelError, match=r"Conv2d gives a tensor \(1, 2, 64, 96\), neither"):
        export_module(nn.Conv2d(3, 2, 1).eval(), SHAPE)
    with pytest.raises(ModelError, match="Linear does not run on images 1x3x64x96"):
        export_module(nn.Linear(2, 2).eval(), SHAPE)
    with pytest.raises(ModelError, match=r"training mode.*eval"):
        export_module(Table6Detector(width=0.125, depth=0.2), SHAPE)
    with pytest.raises(ModelError, match=r"1x3x64x96: it holds images \(B, 1, H, W\)"):
        export_module(RepVggA0(input_shape=(1, 1, 28, 28), width=0.125).eval(), SHAPE)


class Tiny(RepVgg):
    """Not in the zoo, and exported all the same."""

    stage_blocks = (2, 1, 1, 1)
    stage_widths = (1, 1, 1, 1)


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    return settle(Tiny(width=0.125, class_count=5, small_input=True, input_shape=(1, 3, 32, 32)))


@pytest.fixture(scope="module")
def live_export(classifier: nn.Module) -> onnx.ModelProto:
    return onnx.load_model_from_string(export_module(classifier, (1, 3, 32, 32), fold=False))


def settle(network: nn.Module) -> nn.Module:
    """In evaluation mode, with BatchNorm statistics of some images."""
    generator = torch.Generator().manual_seed(0)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand((8, 3, 32, 32), generator=generator))
    return network.eval()


def logits_of(proto: onnx.ModelProto, images: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(
        run_proto(proto, {"images": images.numpy()}, optimization="all")["logits"]
    )


def test_a_classifier_gives_logits(classifier: nn.Module, live_export: onnx.ModelProto) -> None:
    """One input, one output, equal to torch on another image than the export's own."""
    assert [value.name for value in live_export.graph.input] == ["images"]
    assert [value.name for value in live_export.graph.output] == ["logits"]
    images = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        want = in_float64(classifier)(images.double())
    assert relative_error(want, logits_of(live_export, images)) <= 1e-5


def test_with_live_branches_every_block_can_be_recognised(
    classifier: nn.Module, live_export: onnx.ModelProto
) -> None:
    """Its sum is named after it, and so are its branches; a residual addition is no such sum."""
    made = {name for node in live_export.graph.node for name in node.output}
    sums = {name.removesuffix(".sum") for name in made if name.endswith(".sum")}
    assert sums == set(block_names(classifier))
    assert {"features.1.1.branches.dense.bn", "features.1.1.branches.pointwise.bn",
            "features.1.1.branches.identity", "features.1.1.act"} <= made  # fmt: skip
    kinds = [node.op_type for node in live_export.graph.node]
    assert kinds.count("BatchNormalization") == 1  # that of the only identity


def test_a_network_that_is_folded_in_part_is_exported_as_it_is(classifier: nn.Module) -> None:
    """Each strategy has its own number of convolutions, and the same outputs."""
    images = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        want = in_float64(classifier)(images.double())
    counts = []
    for strategy in STRATEGIES:
        folded = fold_module(classifier, strategy=strategy)
        proto = onnx.load_model_from_string(export_module(folded, (1, 3, 32, 32), fold=False))
        assert relative_error(want, logits_of(proto, images)) <= 1e-5
        counts.append(sum(node.op_type == "Conv" for node in proto.graph.node))
    assert counts == [6, 7, 12, 13]


def test_a_missing_or_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    """As load_checkpoint does."""
    with pytest.raises(ConfigError):
        export_onnx_bytes(tmp_path / "none.pt")
    (tmp_path / "bad.pt").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ModelError, match="not a whole checkpoint"):
        export_onnx_bytes(tmp_path / "bad.pt")
