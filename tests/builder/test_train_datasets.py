import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgekit.builder.train import datasets
from edgekit.builder.train.datasets import load_image_set
from edgekit.errors import ConfigError

REAL = Path(__file__).parents[2] / "../shared/data/datasets"


def write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 8x6 px color images: class 0 is red, class 1 is blue (OpenCV writes BGR)."""
    root = tmp_path / "data"
    for split, count in (("train", 3), ("test", 2)):
        for kind, color in (("cat", (0, 0, 200)), ("dog", (200, 0, 0))):
            for number in range(count):
                image = np.full((6, 8, 3), color, np.uint8)
                image[0, 0] = number
                write_image(root / split / kind / f"{number}.png", image)
    return root


def packed(folder: Path, archive: Path) -> Path:
    with tarfile.open(archive, "w:xz") as tar:
        for part in ("test", "train"):
            tar.add(folder / part, part)
        tar.add(__file__, "README.md")
    return archive


def test_pixels_and_labels_are_those_of_the_folders(folder: Path, tmp_path: Path) -> None:
    """Red, green, blue, in the order of classes and names: labels are class numbers."""
    images = load_image_set(folder, tmp_path / "cache")
    assert images.classes == ("cat", "dog")
    assert images.image_shape == (3, 6, 8)
    assert images.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.train.pixels[:, 3, 3].tolist() == [[200, 0, 0]] * 3 + [[0, 0, 200]] * 3
    assert images.test.pixels[:, 0, 0, 0].tolist() == [0, 1, 0, 1]


def test_an_archive_is_the_same_as_its_folder(folder: Path, tmp_path: Path) -> None:
    """Data sets come packed; nothing is unpacked to disk, beside the archive least of all."""
    (tmp_path / "packed").mkdir()
    archive = packed(folder, tmp_path / "packed" / "images.tar.xz")
    want = load_image_set(folder, tmp_path / "cache").sha256
    assert load_image_set(archive, tmp_path / "cache").sha256 == want
    assert load_image_set(archive.parent, tmp_path / "cache").sha256 == want
    assert list(archive.parent.iterdir()) == [archive]


def test_images_are_decoded_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding 60,000 files takes longer than an epoch of a small network on a GPU."""
    want = load_image_set(folder, tmp_path / "cache").sha256
    monkeypatch.setattr(datasets, "read_images", lambda source: pytest.fail("decoded again"))
    assert load_image_set(folder, tmp_path / "cache").sha256 == want


def test_a_changed_folder_is_decoded_again(folder: Path, tmp_path: Path) -> None:
    """A stale cache would train on images that are no longer there."""
    before = load_image_set(folder, tmp_path / "cache")
    write_image(folder / "train" / "cat" / "9.png", np.zeros((6, 8, 3), np.uint8))
    after = load_image_set(folder, tmp_path / "cache")
    assert (len(before.train), len(after.train)) == (6, 7)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9, 1.0])
def test_a_damaged_cache_is_made_again(folder: Path, tmp_path: Path, place: float) -> None:
    """A flipped or missing byte must neither end the run nor reach the network."""
    want = load_image_set(folder, tmp_path / "cache").sha256
    (cached,) = (tmp_path / "cache").iterdir()
    whole = cached.read_bytes()
    at = min(int(len(whole) * place), len(whole) - 1)
    cached.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    assert load_image_set(folder, tmp_path / "cache").sha256 == want
    cached.write_bytes(whole[:at])
    assert load_image_set(folder, tmp_path / "cache").sha256 == want


def test_gray_images_keep_one_channel_unless_one_has_color(tmp_path: Path) -> None:
    """Digits cost a third; and JPEG files of gray scenes are often stored gray among color ones."""
    root = tmp_path / "data"
    for split in ("train", "test"):
        write_image(root / split / "a" / "0.png", np.full((4, 4), 7, np.uint8))
    assert load_image_set(root, tmp_path / "cache").image_shape == (1, 4, 4)
    write_image(root / "train" / "a" / "1.png", np.full((4, 4, 3), (1, 2, 3), np.uint8))
    images = load_image_set(root, tmp_path / "cache")
    assert images.train.pixels[:, 0, 0].tolist() == [[7, 7, 7], [3, 2, 1]]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_cut_off_image_is_named(folder: Path, tmp_path: Path, suffix: str) -> None:
    """Decoders fill what is missing with gray and say nothing."""
    path = folder / "train" / "dog" / f"cut.{suffix}"
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (6, 8, 3), np.uint8)
    write_image(path, noise)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=rf"dog/cut\.{suffix} is not a whole PNG or JPEG"):
        load_image_set(folder, tmp_path / "cache")


def test_bytes_behind_an_image_do_no_harm(folder: Path, tmp_path: Path) -> None:
    """Some cameras write a second picture or their own notes there."""
    want = load_image_set(folder, tmp_path / "cache")
    path = folder / "train" / "dog" / "0.png"
    path.write_bytes(path.read_bytes() + b"\0" * 70)
    assert load_image_set(folder, tmp_path / "cache").sha256 == want.sha256


def test_a_file_that_is_no_image_is_named(folder: Path, tmp_path: Path) -> None:
    """A text file with the wrong name, an empty file: which one it is must be said."""
    (folder / "test" / "cat" / "note.png").write_text("hello")
    with pytest.raises(ConfigError, match=r"cat/note\.png is not a whole"):
        load_image_set(folder, tmp_path / "cache")


def test_an_image_of_another_size_is_named_with_both_sizes(folder: Path, tmp_path: Path) -> None:
    """One array holds them all; resizing quietly would be a choice made for the user."""
    write_image(folder / "train" / "dog" / "big.png", np.zeros((9, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"big\.png is 8x9 px, .* is 8x6 px"):
        load_image_set(folder, tmp_path / "cache")


def test_missing_and_empty_folders_are_told_apart(folder: Path, tmp_path: Path) -> None:
    """Each has another cure."""
    cache = tmp_path / "cache"
    with pytest.raises(ConfigError, match="there is no image folder"):
        load_image_set(tmp_path / "absent", cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="neither train and test folders nor just one archive"):
        load_image_set(tmp_path / "empty", cache)
    with pytest.raises(ConfigError, match="is no archive of images"):
        load_image_set(Path(__file__), cache)
    for image in (folder / "test" / "dog").iterdir():
        image.unlink()
    with pytest.raises(ConfigError, match="class 'dog' has images in only one of train and test"):
        load_image_set(folder, cache)
    for image in (folder / "test" / "cat").iterdir():
        image.unlink()
    with pytest.raises(ConfigError, match="no images in test/<class>/"):
        load_image_set(folder, cache)


@pytest.mark.parametrize("lost_bytes", [1, 20, 40, 200])
def test_a_cut_off_archive_is_refused(folder: Path, tmp_path: Path, lost_bytes: int) -> None:
    """Half a download must not become half a data set, wherever it stopped."""
    archive = packed(folder, tmp_path / "images.tar.xz")
    archive.write_bytes(archive.read_bytes()[:-lost_bytes])
    with pytest.raises(ConfigError, match="not a whole archive"):
        load_image_set(archive, tmp_path / "cache")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "shape", "train_count"),
    [("mnist_png", (1, 28, 28), 60_000), ("cifar10_jpeg", (3, 32, 32), 50_000)],
)
def test_the_real_data_sets_are_read_whole(
    tmp_path: Path, name: str, shape: tuple[int, ...], train_count: int
) -> None:
    """As they are handed out: one archive in a folder, 10 classes, 10,000 test images."""
    if not (REAL / name).is_dir():
        pytest.skip(f"no {REAL / name}: the real data is not here")
    images = load_image_set(REAL / name, tmp_path)
    assert images.image_shape == shape
    assert (len(images.train), len(images.test), len(images.classes)) == (train_count, 10_000, 10)
    assert np.bincount(images.test.labels).min() > 800
