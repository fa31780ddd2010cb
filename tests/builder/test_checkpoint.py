"""Our torch file: exact, reproducible, and refused when anything in it is off."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekit.builder import checkpoint
from edgekit.builder.checkpoint import load_checkpoint, save_checkpoint
from edgekit.builder.zoo.registry import build
from edgekit.builder.zoo.table6 import Table6Detector
from edgekit.errors import ConfigError, ModelError


def tiny(seed: int = 0) -> Table6Detector:
    return Table6Detector(width=0.125, depth=0.2, class_count=3, strides=(8, 16), seed=seed)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.pt"
    save_checkpoint(tiny(), path)
    return path


def rewritten(path: Path, **fields: Any) -> Path:
    """The checkpoint with some fields replaced; a value of None removes the field."""
    content = {**torch.load(path, weights_only=True), **fields}
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    """Configuration, weights and BatchNorm statistics; ready to evaluate."""
    module = tiny(seed=3)
    with torch.no_grad():
        module(torch.rand(2, 3, 64, 64))  # moves the statistics
    save_checkpoint(module, tmp_path / "a.pt")
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert isinstance(loaded, Table6Detector)
    assert not loaded.training
    assert loaded.config == module.config
    want, got = module.state_dict(), loaded.state_dict()
    assert want.keys() == got.keys()
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the file's name, the memory layout, or how often it was saved and loaded."""
    first, second = tmp_path / "a.pt", tmp_path / "another-name.pt"
    save_checkpoint(tiny().to(memory_format=torch.channels_last), first)
    save_checkpoint(load_checkpoint(first), second)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.integration
def test_another_process_writes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    """Training on another day must be comparable by hash."""
    code = (
        "import sys; from pathlib import Path\n"
        "from edgekit.builder.checkpoint import save_checkpoint\n"
        "from edgekit.builder.zoo.table6 import Table6Detector\n"
        "save_checkpoint(Table6Detector(width=0.125, depth=0.2, class_count=3, strides=(8, 16)),"
        " Path(sys.argv[1]))"
    )
    other = tmp_path / "other.pt"
    subprocess.run([sys.executable, "-c", code, str(other)], check=True, timeout=120)
    assert other.read_bytes() == saved.read_bytes()


def test_a_file_cut_off_anywhere_is_refused(saved: Path) -> None:
    """A full disk or a broken copy."""
    data = saved.read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:length])
        with pytest.raises(ModelError, match="not a whole checkpoint"):
            load_checkpoint(saved)


def test_a_flipped_bit_is_refused_or_harmless(saved: Path) -> None:
    """Never a slightly different network."""
    data, good = saved.read_bytes(), tiny().state_dict()
    for position in range(0, len(data), len(data) // 25):
        saved.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        try:
            state = load_checkpoint(saved).state_dict()
        except ModelError:
            continue
        assert all(torch.equal(good[name], state[name]) for name in good), position


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"format": "other"}, "format is 'other'"),
        ({"version": 2}, "version is 2.*update edgekit"),
        ({"architecture": "resnet"}, "architecture 'resnet' is unknown"),
        ({"architecture": ["table6-detector"]}, "is unknown"),
        ({"config": None}, r"missing \['config'\]"),
        ({"more": 1}, r"unknown \['more'\]"),
        ({"config": {"wide": 1.0}}, "config does not have the fields"),
        ({"config": [1]}, "config does not have the fields"),
        ({"state_dict": {}}, "differ in .* tensors"),
        ({"state_dict": [1]}, "state_dict is a list"),
        ({"sha256": "0" * 64}, "sha256 does not match"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_field_is_refused_by_name(saved: Path, fields: dict[str, Any], why: str) -> None:
    """The reader learns what to edit or update."""
    with pytest.raises(ModelError, match=why):
        load_checkpoint(rewritten(saved, **fields))


def test_a_configuration_of_a_wrong_type_or_value_is_refused(saved: Path) -> None:
    """Each field is checked before any memory is taken."""
    config = torch.load(saved, weights_only=True)["config"]
    for name, value in (("width", "wide"), ("width", 99.0), ("class_count", 10**9)):
        with pytest.raises(ModelError, match=f"config is not valid.*{name}"):
            load_checkpoint(rewritten(saved, config={**config, name: value}))


def test_a_tensor_of_another_shape_or_type_is_refused_by_name(saved: Path) -> None:
    """Both are shown; torch would list all tensors at once."""
    state = torch.load(saved, weights_only=True)["state_dict"]
    name = "heads.0.kind.1.weight"
    for value in (torch.zeros(5, 16, 1, 1), state[name].half(), "text"):
        with pytest.raises(ModelError, match=rf"{name}.*not float32\[3, 16, 1, 1\]"):
            load_checkpoint(rewritten(saved, state_dict={**state, name: value}))


def test_a_changed_configuration_cannot_hide(saved: Path) -> None:
    """The digest covers it too, where shapes alone would not notice."""
    config = torch.load(saved, weights_only=True)["config"]
    with pytest.raises(ModelError, match="sha256"):
        load_checkpoint(rewritten(saved, config={**config, "seed": 5}))


def test_a_file_from_before_a_field_existed_is_still_read(saved: Path) -> None:
    """The field takes its default; the digest is over the configuration that was written."""
    content = torch.load(saved, weights_only=True)
    config = {key: value for key, value in content["config"].items() if key != "input_shape"}
    digest = checkpoint._digest(content["architecture"], config, content["state_dict"])
    loaded = load_checkpoint(rewritten(saved, config=config, sha256=digest))
    assert loaded.config == tiny().config


@pytest.mark.parametrize("name", ["repvgg-a0", "rep-resnet-18", "mobileone-s0"])
def test_every_network_of_the_zoo_can_be_saved(tmp_path: Path, name: str) -> None:
    """By the name under which the zoo builds it."""
    module = build(name, width=0.0625, class_count=3, seed=4, input_shape=(1, 1, 28, 28))
    save_checkpoint(module, tmp_path / "a.pt")
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert type(loaded) is type(module)
    assert loaded.config == module.config
    want, got = module.state_dict(), loaded.state_dict()
    assert all(torch.equal(want[key], got[key]) for key in want)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("a stranger's code ran",))


def test_a_pickle_with_code_is_never_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checkpoints are downloaded from strangers."""
    path = tmp_path / "evil.pt"
    torch.save({"format": Evil()}, path)
    with pytest.raises(ModelError, match="not a whole checkpoint"):
        load_checkpoint(path)
    assert capsys.readouterr().out == ""


def test_somebody_elses_state_dict_is_refused_with_a_way_in(tmp_path: Path) -> None:
    """The most likely .pt file that a newcomer tries."""
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(ModelError, match=r"format is None.*export your network to ONNX"):
        load_checkpoint(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ModelError, match="format is None"):
        load_checkpoint(path)


def test_a_missing_file_and_a_missing_folder_are_told(tmp_path: Path) -> None:
    """Both are mistakes in a path, not in a model."""
    with pytest.raises(ConfigError, match="No such file"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(ConfigError, match="cannot write"):
        save_checkpoint(tiny(), tmp_path / "no" / "folder.pt")


def test_a_failed_write_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of training must not be lost to a full disk."""
    before = saved.read_bytes()

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigError, match="No space left"):
        save_checkpoint(tiny(seed=9), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_network_outside_the_zoo_cannot_be_saved(tmp_path: Path) -> None:
    """Nobody could load it again."""
    with pytest.raises(ModelError, match="Linear has no checkpoint format"):
        save_checkpoint(nn.Linear(2, 2), tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_the_file_holds_plain_data_only(saved: Path) -> None:
    """What weights_only allows, and nothing that names a class of ours."""
    raw = io.BytesIO(saved.read_bytes())
    content = torch.load(raw, weights_only=True)
    assert sorted(content) == [
        "architecture", "config", "format", "sha256", "state_dict", "version",
    ]  # fmt: skip
    assert b"edgekit.builder" not in saved.read_bytes()
