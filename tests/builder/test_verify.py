"""Verification: it finds what is wrong, and says where."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgekit.builder.build import build_bundle
from edgekit.builder.verify import OutputCheck, VerifyReport, verify_bundle
from edgekit.bundle.bundle import Bundle, open_bundle
from edgekit.errors import ConfigError, ModelError, TrustError
from edgekit.spec.card import ModelCard, OutputCard
from edgekit.spec.fleet import local_fleet
from tests.graphs import model, residual_model, saved

CARD = ModelCard(name="test", labels=("x",), output=OutputCard(decoder="yolox"))


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., tuple[Bundle, Path]]:
    def run(proto: onnx.ModelProto, card: ModelCard | None = None) -> tuple[Bundle, Path]:
        path = saved(proto, tmp_path / "net.onnx")
        result = build_bundle(path, fleet=local_fleet(2), out=tmp_path / "bundle", card=card)
        return open_bundle(result.bundle.folder), path

    return run


def image_model() -> onnx.ModelProto:
    """Takes a small colour image."""
    from onnx import helper

    weights = {"w": np.full((4, 3, 3, 3), 0.01, np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Exp", ["s"], ["out"]),
    ]
    return model(nodes, {"image": [1, 3, 32, 48]}, ["out"], weights=weights)


def test_every_output_is_compared_at_both_levels(
    build: Callable[..., tuple[Bundle, Path]],
) -> None:
    """Bit-equal at extended, within the limit at all."""
    bundle, path = build(residual_model())
    report = verify_bundle(bundle, path, seeds=range(3))
    assert {(c.output, c.level, c.kind, c.compared_count) for c in report.checks} == {
        (output, level, "random", 3)
        for output in ("early", "late")
        for level in ("extended", "all")
    }
    assert report.bit_equal("extended") == (6, 6)
    assert report.is_ok
    report.raise_if_bad()


def test_the_whole_is_the_file_itself(
    build: Callable[..., tuple[Bundle, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in normalising must show, too: proving a copy against itself proves nothing."""
    import edgekit.builder.verify as module

    bundle, path = build(residual_model())
    loaded_from = []
    real = module.OrtSession

    def session(where: Path, **options: Any) -> Any:
        loaded_from.append(where)
        return real(where, **options)

    monkeypatch.setattr(module, "OrtSession", session)
    verify_bundle(bundle, path, seeds=[0])
    assert loaded_from.count(path) == 3


def test_frames_are_compared_beside_random_input(
    build: Callable[..., tuple[Bundle, Path]], tmp_path: Path
) -> None:
    """Real pixels reach other values than noise."""
    import cv2

    for index in range(3):
        image = np.full((40, 60, 3), 60 * index, np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
    bundle, path = build(image_model(), CARD)
    report = verify_bundle(bundle, path, source=f"images:{tmp_path}", frame_count=2, seeds=range(1))
    counts = {(check.kind, check.level): check.compared_count for check in report.checks}
    assert counts[("frame", "extended")] == 2
    assert counts[("random", "extended")] == 1
    assert report.is_ok


def test_frames_need_a_card(build: Callable[..., tuple[Bundle, Path]]) -> None:
    """Without it nobody knows how a frame becomes a tensor."""
    bundle, path = build(image_model())
    with pytest.raises(ConfigError, match="no model card"):
        verify_bundle(bundle, path, source="scene:yard")


def test_another_model_is_refused(
    build: Callable[..., tuple[Bundle, Path]], tmp_path: Path
) -> None:
    """One changed weight is another file, so no numbers are compared at all."""
    bundle, _ = build(residual_model())
    other = residual_model()
    other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
    with pytest.raises(TrustError, match="another file"):
        verify_bundle(bundle, saved(other, tmp_path / "other.onnx"))


def test_a_shard_with_other_numbers_fails(
    build: Callable[..., tuple[Bundle, Path]], tmp_path: Path
) -> None:
    """By name of the output, and by how much."""
    bundle, path = build(residual_model())
    shard = bundle.shard(1)
    proto = onnx.load(shard)
    for node in proto.graph.node:
        node.op_type = {"Tanh": "Sin"}.get(node.op_type, node.op_type)
    shard.write_bytes(proto.SerializeToString())
    report = verify_bundle(bundle, path)
    assert not report.is_ok
    with pytest.raises(ModelError, match=r"output 'late' .* limit is 1e-05"):
        report.raise_if_bad()


@pytest.mark.parametrize(
    ("relative_error", "is_ok"), [(0.0, True), (1e-5, True), (1.1e-5, False), (math.nan, False)]
)
def test_the_limit_is_what_was_promised(relative_error: float, is_ok: bool) -> None:
    """1e-5 of the range, and NaN is never within it."""
    check = OutputCheck(
        kind="random", level="all", output="y", compared_count=1, bit_equal_count=0,
        max_relative_error=relative_error,
    )  # fmt: skip
    assert VerifyReport(checks=(check,)).is_ok == is_ok


def test_comparing_nothing_proves_nothing() -> None:
    """An empty report must not pass."""
    with pytest.raises(ModelError, match="nothing was compared"):
        VerifyReport(checks=()).raise_if_bad()
