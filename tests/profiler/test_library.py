"""Profiles are found by name, one's own first, and what is wrong is said."""

from pathlib import Path

import pytest

from edgekit.errors import ConfigError
from edgekit.profiler import library
from edgekit.profiler.library import (
    find_profile,
    list_profiles,
    load_profile,
    profile_folders,
    shipped_folder,
    stale_reason,
    user_folder,
)
from edgekit.spec.base import save
from edgekit.spec.profile import Ceiling, DeviceProfile


def saved(folder: Path, name: str, *, file: str = "", bandwidth: str = "10 GB/s") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (file or f"{name}.toml")
    profile = DeviceProfile(
        name=name,
        source="measured",
        reference="a test",
        processor="1x core",
        memory="1 GiB",
        memory_bandwidth=bandwidth,
        runtime="onnxruntime 1.30.0",
        ceiling=(Ceiling(precision="fp32", compute="10 Gflop/s"),),
    )
    save(profile, path)
    return path


def test_a_profile_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    """A file elsewhere may be called anything."""
    path = saved(tmp_path / "lib", "board")
    other = saved(tmp_path, "board", file="copy-of-board.toml")
    assert find_profile("board", folders=[tmp_path / "lib"]).path == path
    assert find_profile(str(other), folders=[]).profile.name == "board"


def test_ones_own_profile_hides_the_shipped_one(tmp_path: Path) -> None:
    """What was measured here is better than what a datasheet says."""
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    saved(own, "board", bandwidth="4 GB/s")
    saved(shipped, "board", bandwidth="12.8 GB/s")
    saved(shipped, "other")
    assert load_profile("board", folders=[own, shipped]).memory_bandwidth == "4 GB/s"
    found = list_profiles(folders=[own, shipped]).found
    assert [(one.profile.name, one.path.parent) for one in found] == [
        ("board", own),
        ("other", shipped),
    ]


def test_folders_are_the_working_one_then_the_users_then_the_shipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As XDG says, or below the home folder; a relative XDG path is to be ignored."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert user_folder() == tmp_path / "xdg/edgekit/device_profiles"
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", value)
        assert user_folder() == tmp_path / ".config/edgekit/device_profiles"
    assert profile_folders() == (Path("device_profiles"), user_folder(), shipped_folder())
    saved(user_folder(), "mine")
    assert load_profile("mine").name == "mine"


def test_a_profile_of_the_folder_one_works_in_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`edgekit profile run` saves it there if the folder exists."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    saved(tmp_path / "device_profiles", "mine")
    assert load_profile("mine").name == "mine"


def test_an_installed_package_brings_its_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel has them inside; a checkout beside the package."""
    package = tmp_path / "site-packages" / "edgekit"
    monkeypatch.setattr(library, "_PACKAGE", package)
    assert shipped_folder() == tmp_path / "site-packages" / "device_profiles"
    saved(package / "_device_profiles", "board")
    assert shipped_folder() == package / "_device_profiles"


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("jetson-nan", "jetson-nano"),
        ("Jetson Nano", "jetson-nano"),
        ("nano", "jetson-nano"),
        ("pi4", "raspberry-pi-4"),
        ("RASPBERRY_PI_5", "raspberry-pi-5"),
    ],
)
def test_a_misspelt_name_is_answered_with_near_ones(tmp_path: Path, asked: str, near: str) -> None:
    """Nobody remembers where the hyphens are."""
    for name in ("jetson-nano", "raspberry-pi-4", "raspberry-pi-5", "h200"):
        saved(tmp_path, name)
    with pytest.raises(ConfigError, match="there is no device profile") as caught:
        find_profile(asked, folders=[tmp_path])
    assert near in caught.value.hint


@pytest.mark.parametrize("asked", ["", "?", "toaster"])
def test_a_name_like_no_other_is_answered_with_the_list(tmp_path: Path, asked: str) -> None:
    """Three names at random would mislead."""
    saved(tmp_path, "h200")
    with pytest.raises(ConfigError) as caught:
        find_profile(asked, folders=[tmp_path])
    assert "h200" not in caught.value.hint
    assert "edgekit profile list" in caught.value.hint


def test_one_broken_file_does_not_hide_the_others(tmp_path: Path) -> None:
    """Listing goes on; what is wrong is said by file."""
    saved(tmp_path, "sound")
    (tmp_path / "cut.toml").write_bytes(saved(tmp_path, "cut").read_bytes()[:60])
    saved(tmp_path, "board", file="renamed.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / ".part.toml").write_text("half written")
    listed = list_profiles(folders=[tmp_path, tmp_path / "missing"])
    assert [one.profile.name for one in listed.found] == ["sound"]
    cut, renamed = listed.problems
    assert "cut.toml" in cut.what
    assert "renamed.toml holds the profile of 'board'" in renamed.what
    assert "board.toml" in renamed.hint


def test_a_path_to_nothing_is_named(tmp_path: Path) -> None:
    """Not mistaken for a name."""
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.toml"):
        find_profile(str(tmp_path / "absent.toml"))


def test_a_profile_of_another_runtime_says_so(tmp_path: Path) -> None:
    """The agent's runtime was updated after the profile was measured."""
    profile = load_profile(str(saved(tmp_path, "board")))
    assert stale_reason(profile, "onnxruntime 1.30.0") == ""
    reason = stale_reason(profile, "onnxruntime 1.31.1")
    assert "1.30.0" in reason
    assert "1.31.1" in reason
