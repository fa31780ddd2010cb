"""Which integers a device takes, told by its profile."""

import pytest

from edgekit.builder.quantize import targets
from edgekit.builder.quantize.recipes import RECIPES, recipe_for
from edgekit.builder.quantize.targets import level_here, target_of
from edgekit.profiler.library import list_profiles
from edgekit.spec.fleet import Device

EXPECTED = {
    "raspberry-pi-zero-2w": "arm", "raspberry-pi-3b-plus": "arm", "raspberry-pi-4": "arm",
    "raspberry-pi-5": "arm-dot", "jetson-nano": "arm", "jetson-tx1": "arm", "jetson-tx2": "arm",
    "jetson-xavier-nx": "arm-dot", "jetson-orin-nano": "arm-dot", "jetson-agx-orin": "arm-dot",
    "rtx-4090": "tensorrt", "h200": "tensorrt",
}  # fmt: skip


def test_every_shipped_board_gets_the_recipe_of_its_processor() -> None:
    """A53, A57 and A72 have no dot product; A76, A78AE and Carmel have."""
    found = {one.profile.name: one.profile for one in list_profiles().found}
    got = {name: target_of(Device(name="x"), found[name]) for name in EXPECTED}
    assert got == EXPECTED


def test_a_gpu_takes_signed_integers_whatever_its_processor_is() -> None:
    for provider in ("tensorrt", "tensorrt-dla", "tensorrt-ep", "tensorrt-rtx-ep", "cuda"):
        assert target_of(Device(name="x", provider=provider)) == "tensorrt"


def test_a_device_without_a_profile_is_like_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "target_here", lambda: "arm-dot")
    assert target_of(Device(name="x")) == "arm-dot"


@pytest.mark.parametrize("name", RECIPES)
def test_integer_kernels_that_overflow_here_are_not_believed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without VNNI, sums of two products of 8 bits are cut off at 16: only 7-bit weights fit."""
    monkeypatch.setattr(targets, "target_here", lambda: "x86")
    assert level_here(recipe_for(name)) == ("all" if name == "x86" else "none")
    monkeypatch.setattr(targets, "target_here", lambda: "x86-vnni")
    assert level_here(recipe_for(name)) == "all"
