import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from edgekit.builder.checkpoint import load_checkpoint
from edgekit.builder.train.datasets import load_image_set
from edgekit.builder.train.evaluate import evaluate, torch_logits
from edgekit.builder.zoo.registry import entry_of

SAMPLES = Path(__file__).parents[2] / "samples"
CLASSIFY = SAMPLES / "classify"
REAL = Path(__file__).parents[2] / "../shared/data/datasets"
WEIGHTS = sorted(CLASSIFY.glob("*.pt"))


def script(name: str) -> ModuleType:
    """A script of the sample, under a name of its own: another sample has a train.py, too."""
    spec = importlib.util.spec_from_file_location(f"classify_{name}", CLASSIFY / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Two classes of 16x16 px gray images, dark ones and bright ones."""
    numbers = np.random.Generator(np.random.PCG64(0))
    for split, count in (("train", 12), ("test", 7)):
        for kind, base in (("bright", 170), ("dark", 20)):
            folder = tmp_path / "data" / split / kind
            folder.mkdir(parents=True)
            for number in range(count):
                image = numbers.integers(base, base + 60, (16, 16)).astype(np.uint8)
                assert cv2.imwrite(str(folder / f"{number}.png"), image)
    return tmp_path / "data"


def train(data: Path, out: Path, *extra: str) -> Result:
    options = [
        "--data", data, "--out", out, "--work", out.parent / "work", "--model", "rep-resnet-18",
        "--width", "0.125", "--epochs", "2", "--batch", "8", "--rate", "0.05", "--average", "0.5",
    ]  # fmt: skip
    return CliRunner().invoke(
        script("train").main, [*map(str, options), *extra], env={"COLUMNS": "500"}
    )


def test_a_training_writes_a_checkpoint_and_what_it_is_worth(digits: Path, tmp_path: Path) -> None:
    """The whole story on 24 images."""
    result = train(digits, tmp_path / "net.pt")
    assert result.exit_code == 0, result.output
    model = load_checkpoint(tmp_path / "net.pt")
    assert model.config.input_shape == (1, 1, 16, 16)
    assert model.config.small_input
    facts = json.loads((tmp_path / "work" / "net" / "result.json").read_text())
    assert facts["test_image_count"] == 14
    assert f"{100 * facts['top1']:.2f} %" in result.output


def test_a_second_call_goes_on_and_gives_the_same_file(digits: Path, tmp_path: Path) -> None:
    """The same command after a power cut: no flag to remember."""
    assert train(digits, tmp_path / "net.pt").exit_code == 0
    first = (tmp_path / "net.pt").read_bytes()
    again = train(digits, tmp_path / "net.pt")
    assert "going on after epoch 2" in again.output
    assert (tmp_path / "net.pt").read_bytes() == first
    assert train(digits, tmp_path / "net.pt", "--fresh").exit_code == 0
    assert (tmp_path / "net.pt").read_bytes() == first


def test_other_options_do_not_take_up_an_old_run(digits: Path, tmp_path: Path) -> None:
    """Half of one recipe and half of another would be neither."""
    assert train(digits, tmp_path / "net.pt").exit_code == 0
    result = train(digits, tmp_path / "net.pt", "--rate", "0.2")
    assert result.exit_code == 1
    assert "peak_rate 0.05, not 0.2" in result.output


def test_a_time_limit_says_how_many_epochs_it_gives(digits: Path, tmp_path: Path) -> None:
    """And a limit below one epoch is an error with a way out."""
    result = train(digits, tmp_path / "net.pt", "--time-limit", "0.000001")
    assert result.exit_code == 1
    assert "one epoch takes" in result.output and "--width" in result.output


def test_a_run_with_a_time_limit_keeps_its_number_of_epochs(digits: Path, tmp_path: Path) -> None:
    """Measured again on a busier machine it would be another recipe."""
    assert train(digits, tmp_path / "net.pt").exit_code == 0
    result = train(digits, tmp_path / "net.pt", "--time-limit", "0.000001")
    assert result.exit_code == 0, result.output
    assert "2 epochs as first planned" in result.output


def test_missing_images_are_reported_without_a_traceback(tmp_path: Path) -> None:
    """One line with what to do."""
    result = train(tmp_path / "absent", tmp_path / "net.pt")
    assert result.exit_code == 1
    assert "there is no image folder" in result.output


@pytest.mark.integration
def test_all_strategies_predict_the_same(digits: Path, tmp_path: Path) -> None:
    """On every image of the test set, though the last batch is not full."""
    assert train(digits, tmp_path / "net.pt").exit_code == 0
    numbers = tmp_path / "numbers.json"
    options = ["--data", digits, "--work", tmp_path / "work", "--json", numbers]
    result = CliRunner().invoke(
        script("evaluate").main, [str(tmp_path / "net.pt"), *map(str, options)]
    )
    assert result.exit_code == 0, result.output
    rows = json.loads(numbers.read_text())["strategies"]
    assert [row["strategy"] for row in rows] == ["S3", "S3+Ss", "S3+S1", "S3+Ss+S1"]
    assert {row["differing_count"] for row in rows} == {0}
    operators = [row["operator_count"] for row in rows]
    assert operators[0] == min(operators) < max(operators) == operators[3]


def test_weights_of_other_images_are_refused(digits: Path, tmp_path: Path) -> None:
    """Three classes of color are not two of gray."""
    evaluating = script("evaluate")
    weights = next(path for path in WEIGHTS if path.name.startswith("cifar10"))
    with pytest.raises(evaluating.ModelError, match=r"10 classes in 3 channels.*2 in 1"):
        evaluating.check_fits(
            load_checkpoint(weights), load_image_set(digits, tmp_path / "cache"), weights
        )


def test_three_families_are_trained_on_both_data_sets() -> None:
    """Folded in all the ways there are, they are what experiments start from."""
    families = {path.name: entry_of(load_checkpoint(path)).name for path in WEIGHTS}
    assert families == {
        f"{data}-{name}.pt": entry
        for data in ("mnist", "cifar10")
        for name, entry in (
            ("repvgg", "repvgg-a0"),
            ("rep-resnet", "rep-resnet-18"),
            ("rep-googlenet", "rep-googlenet"),
        )
    }


def test_all_weights_of_all_samples_stay_small() -> None:
    """They are in the repository, and 25 MB is what it may hold."""
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*.pt")) <= 25e6
    assert max(path.stat().st_size for path in WEIGHTS) <= 3.2e6


@pytest.mark.slow
@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: path.stem)
def test_the_weights_are_as_good_as_the_readme_says(path: Path, tmp_path: Path) -> None:
    """Give or take an image or two: another processor sums in another order."""
    source = REAL / {"mnist": "mnist_png", "cifar10": "cifar10_jpeg"}[path.stem.split("-")[0]]
    if not source.is_dir():
        pytest.skip(f"no {source}: the real data is not here")
    readme = (CLASSIFY / "README.md").read_text(encoding="utf-8")
    said = re.search(rf"`{path.name}` .*?\| \*\*([0-9.]+) %\*\*", readme)
    assert said is not None, f"{path.name} is not in the README's table"
    torch.set_num_threads(1)
    images = load_image_set(source, tmp_path).test
    result = evaluate(torch_logits(load_checkpoint(path)), images)
    assert abs(result.correct_count - round(float(said[1]) * 100)) <= 3
