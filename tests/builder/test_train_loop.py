import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.builder.fold.geometry import ConvGeometry
from edgekit.builder.train import loop
from edgekit.builder.train.augment import Augmentation
from edgekit.builder.train.datasets import LabelledImages
from edgekit.builder.train.evaluate import evaluate, torch_logits
from edgekit.builder.train.loop import (
    EpochReport,
    Watch,
    epochs_within,
    measure_epoch_s,
    pick_device,
    repeatable,
    train,
)
from edgekit.builder.train.recipe import Recipe
from edgekit.builder.train.state import Training, saved_recipe
from edgekit.builder.zoo.blocks import RepBlock
from edgekit.errors import ConfigError

RECIPE = Recipe(
    epoch_count=3, batch_image_count=8, peak_rate=0.05, average_decay=0.9,
    augmentation=Augmentation(shift_px=1, mirror=False),
)  # fmt: skip


class StopError(Exception):
    """Stands in for whatever ends a process."""


def small_net() -> nn.Module:
    torch.manual_seed(7)
    same = ConvGeometry.square(3)
    return nn.Sequential(
        RepBlock(same, 1, 4), RepBlock(same, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Dropout(0.1), nn.Linear(4, 2),
    )  # fmt: skip


def stripes(count: int = 40) -> LabelledImages:
    """Class 0: horizontal stripes, class 1: vertical ones, with noise."""
    numbers = np.random.Generator(np.random.PCG64(3))
    labels = np.arange(count) % 2
    pixels = numbers.integers(0, 60, (count, 8, 8, 1))
    pixels[labels == 0, ::2] += 180
    pixels[labels == 1, :, ::2] += 180
    return LabelledImages(pixels=pixels.astype(np.uint8), labels=labels.astype(np.int64))


def weights_of(training: Training) -> bytes:
    tensors = [*training.model.state_dict().values(), *training.average.state_dict().values()]
    return b"".join(value.contiguous().numpy().tobytes() for value in tensors)


def trained(state: Path, recipe: Recipe = RECIPE) -> Training:
    with repeatable(1):
        training = Training(small_net(), recipe)
        if state.is_file():
            training.restore(state)
        train(training, stripes(), state, Watch())
    return training


def test_a_small_net_learns_stripes(tmp_path: Path) -> None:
    """The loop, the recipe and the average together lead somewhere."""
    training = trained(tmp_path / "state.pt", replace(RECIPE, epoch_count=12))
    result = evaluate(torch_logits(training.average), stripes(), batch_image_count=16)
    assert result.top1 > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    """Every claim about a trained model starts here."""
    one, same = (weights_of(trained(tmp_path / name)) for name in ("a", "b"))
    other = weights_of(trained(tmp_path / "c", replace(RECIPE, seed=1)))
    assert one == same != other


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_run_taken_up_ends_in_the_same_weights(tmp_path: Path, epoch: int) -> None:
    """Dropout and shuffling included: the state holds the generator too."""
    want = weights_of(trained(tmp_path / "whole.pt"))

    def stop(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise StopError

    with repeatable(1), pytest.raises(StopError):
        train(Training(small_net(), RECIPE), stripes(), tmp_path / "s.pt", Watch(epoch=stop))
    torch.manual_seed(99)
    resumed = trained(tmp_path / "s.pt")
    assert weights_of(resumed) == want
    assert resumed.epoch == RECIPE.epoch_count


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    """Running the command again only writes the result again."""
    want = weights_of(trained(tmp_path / "state.pt"))
    assert weights_of(trained(tmp_path / "state.pt")) == want


@pytest.mark.parametrize(
    ("recipe", "about", "named"),
    [
        (replace(RECIPE, peak_rate=0.2), "net", "peak_rate 0.05, not 0.2"),
        (replace(RECIPE, augmentation=Augmentation(shift_px=2, mirror=False)), "net", "shift_px"),
        (RECIPE, "another", "network net, not another"),
    ],
)
def test_a_state_of_another_training_is_refused(
    tmp_path: Path, recipe: Recipe, about: str, named: str
) -> None:
    """By the name of what differs; half one recipe and half another is neither."""
    Training(small_net(), RECIPE, about={"network": "net"}).save(tmp_path / "state.pt")
    with pytest.raises(ConfigError, match=named):
        Training(small_net(), recipe, about={"network": about}).restore(tmp_path / "state.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_cut_off_state_is_refused(tmp_path: Path, share: float) -> None:
    """It is written whole or not at all, but disks fail."""
    state = tmp_path / "state.pt"
    Training(small_net(), RECIPE).save(state)
    whole = state.read_bytes()
    state.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ConfigError, match="no whole training state"):
        Training(small_net(), RECIPE).restore(state)


def test_something_else_saved_by_torch_is_no_state(tmp_path: Path) -> None:
    """A checkpoint of weights is close, but not it."""
    torch.save({"format": "other"}, tmp_path / "state.pt")
    with pytest.raises(ConfigError, match="no training state of this version"):
        saved_recipe(tmp_path / "state.pt")
    torch.save({**_state(tmp_path), "model": {}}, tmp_path / "state.pt")
    with pytest.raises(ConfigError, match="does not fit the network"):
        Training(small_net(), RECIPE).restore(tmp_path / "state.pt")


def _state(folder: Path) -> dict[str, object]:
    Training(small_net(), RECIPE).save(folder / "good.pt")
    return torch.load(folder / "good.pt", weights_only=True)


def test_the_recipe_can_be_read_from_a_state(tmp_path: Path) -> None:
    """A time limit chose the number of epochs once; the run that goes on must keep it."""
    assert saved_recipe(tmp_path / "state.pt") is None
    Training(small_net(), RECIPE).save(tmp_path / "state.pt")
    assert saved_recipe(tmp_path / "state.pt") == RECIPE


def test_a_loss_that_is_no_longer_finite_ends_the_run(tmp_path: Path) -> None:
    """The state on disk stays that of the last good epoch."""
    training = Training(small_net(), RECIPE)
    with torch.no_grad():
        next(iter(training.model.parameters())).fill_(torch.inf)
    with pytest.raises(ConfigError, match=r"the loss became nan.*lower --rate"):
        train(training, stripes(), tmp_path / "state.pt", Watch())
    assert not (tmp_path / "state.pt").exists()


def test_measuring_an_epoch_changes_nothing() -> None:
    """Neither the network nor the numbers that are drawn after it."""
    model, images = small_net(), stripes()
    before = [value.clone() for value in model.state_dict().values()]
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    assert measure_epoch_s(model, RECIPE, images, torch.device("cpu")) > 0
    assert torch.equal(torch.rand(3), want)
    assert all(map(torch.equal, before, model.state_dict().values()))


def test_a_time_limit_becomes_whole_epochs_with_something_in_reserve() -> None:
    """The cosine must end within it; a limit for less than one epoch is an error."""
    assert epochs_within(600, 50) == 10
    assert epochs_within(600, 539) == 1
    with pytest.raises(ConfigError, match=r"one epoch takes 10\.0 min"):
        epochs_within(600, 600)


def test_settings_of_torch_are_as_before_afterwards() -> None:
    """Training is a guest in the process."""
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    with repeatable(threads + 1):
        torch.manual_seed(6)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == threads + 1
    assert torch.equal(torch.rand(3), want)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == threads


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto falls back to the CPU, a wish does not."""
    monkeypatch.setattr(loop.torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == pick_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        pick_device("cuda")
    with pytest.raises(ConfigError, match="no device 'tpu'"):
        pick_device("tpu")


@pytest.mark.integration
def test_a_killed_process_started_again_ends_in_the_same_weights(tmp_path: Path) -> None:
    """kill -9 in the middle of an epoch, as the machine would: nothing can be tidied up."""
    want = weights_of(trained(tmp_path / "whole.pt"))
    script = tmp_path / "endless.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_train_loop import RECIPE, Training, Watch, repeatable, small_net, stripes, train
        def slow(report):
            if report.epoch == 1 and report.step > 5:
                print("second epoch", flush=True)
                time.sleep(600)
        with repeatable(1):
            training = Training(small_net(), RECIPE)
            train(training, stripes(), Path({str(tmp_path / "s.pt")!r}), Watch(step=slow))
        """)
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "second epoch\n"
        finally:
            process.send_signal(signal.SIGKILL)
    assert weights_of(trained(tmp_path / "s.pt")) == want
