"""Reading models: whole files only, and the reason when it is none."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgekit.builder.read import read_model
from edgekit.errors import ConfigError, ModelError
from tests.graphs import residual_model, saved


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 200, -1, -2, -5, -20])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, keep: int) -> None:
    """Downloads break off, also between two fields, where protobuf sees nothing wrong."""
    data = residual_model().SerializeToString()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[:keep])
    with pytest.raises(ModelError) as caught:
        read_model(path)
    assert "cut.onnx" in caught.value.what
    assert "again" in caught.value.hint


@pytest.mark.parametrize("data", [b"<!DOCTYPE html>", b"PK\x03\x04" + bytes(100), bytes(1000)])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, data: bytes) -> None:
    """A login page saved as a model, a torch archive with the wrong name."""
    path = tmp_path / "page.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"page\.onnx"):
        read_model(path)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """One flipped bit in a name breaks every library that reads it, each in its own way."""
    data = residual_model().SerializeToString().replace(b"stem_relu", b"stem_\xb1elu")
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="no text"):
        read_model(path)


def test_a_missing_file_is_a_wrong_path(tmp_path: Path) -> None:
    """ConfigError: edit the command, not the model."""
    with pytest.raises(ConfigError, match="No such file"):
        read_model(tmp_path / "absent.onnx")
    with pytest.raises(ConfigError, match="directory"):
        read_model(tmp_path)


def external_model(folder: Path, location: str = "weights.bin") -> Path:
    path = folder / "model.onnx"
    onnx.save(
        residual_model(), path, save_as_external_data=True, location=location, size_threshold=0
    )
    return path


def test_external_data_is_taken_in(tmp_path: Path) -> None:
    """The rest of the builder needs one self-contained graph."""
    proto, _ = read_model(external_model(tmp_path))
    found = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    for tensor in residual_model().graph.initializer:
        assert np.array_equal(found[tensor.name], onnx.numpy_helper.to_array(tensor))


def test_the_digest_covers_external_data(tmp_path: Path) -> None:
    """Other weights are another model, though the .onnx file is the same."""
    path = external_model(tmp_path)
    _, before = read_model(path)
    weights = bytearray((tmp_path / "weights.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(bytes(weights))
    _, after = read_model(path)
    assert before != after


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    """People copy the .onnx file alone."""
    path = external_model(tmp_path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"'weights\.bin', which is missing"):
        read_model(path)


def test_external_data_that_is_cut_off_is_named(tmp_path: Path) -> None:
    """By how much, too."""
    path = external_model(tmp_path)
    data = (tmp_path / "weights.bin").read_bytes()
    (tmp_path / "weights.bin").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match=r"weights\.bin is cut off"):
        read_model(path)


def test_external_data_outside_the_folder_is_refused(tmp_path: Path) -> None:
    """A model must not read /etc/passwd."""
    (tmp_path / "sub").mkdir()
    path = external_model(tmp_path / "sub")
    (tmp_path / "sub/weights.bin").rename(tmp_path / "weights.bin")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    with pytest.raises(ModelError, match="outside its folder"):
        read_model(saved(proto, path))
