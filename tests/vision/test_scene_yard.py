import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from edgekit.errors import ConfigError
from edgekit.spec.messages import Detection
from edgekit.vision.scene.yard import LABELS, YardScene

SEEDS = (1, 2, 5)


@pytest.fixture(scope="module")
def scenes() -> dict[int, YardScene]:
    return {seed: YardScene(seed) for seed in SEEDS}


def digest(scene: YardScene, frame_number: int) -> str:
    image, truth = scene.render(frame_number)
    return hashlib.sha256(image.tobytes() + repr(truth).encode()).hexdigest()


def area_px2(detection: Detection) -> float:
    x1, y1, x2, y2 = detection.box
    return (x2 - x1) * (y2 - y1)


def test_a_frame_is_a_bgr_picture_of_the_size_asked_for() -> None:
    """Sources and preprocessing count on (H, W, 3) uint8."""
    image, _ = YardScene(1, width_px=320, height_px=208).render(3)
    assert image.shape == (208, 320, 3)
    assert image.dtype == np.uint8
    assert image.flags["C_CONTIGUOUS"]


def test_the_same_seed_gives_the_same_bytes() -> None:
    """Two agents that render the same scene must see the same thing."""
    assert digest(YardScene(2), 77) == digest(YardScene(2), 77)


@pytest.mark.integration
def test_another_process_gives_the_same_bytes(scenes: dict[int, YardScene]) -> None:
    """Nothing may depend on hash seeds, addresses or what ran before."""
    code = (
        "import hashlib; from edgekit.vision.scene.yard import YardScene;"
        "image, truth = YardScene(5).render(40);"
        "print(hashlib.sha256(image.tobytes() + repr(truth).encode()).hexdigest())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == digest(scenes[5], 40)


def test_the_scene_needs_neither_torch_nor_onnx() -> None:
    """It is a source on the board, where the builder is not installed."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['onnx'] = None;"
        "import edgekit.vision.scene.yard"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_frames_may_be_asked_for_in_any_order(scenes: dict[int, YardScene]) -> None:
    """A dropped frame must not change the next one."""
    fresh = YardScene(1)
    in_order = [digest(scenes[1], number) for number in range(0, 60, 20)]
    backwards = [digest(fresh, number) for number in range(40, -1, -20)]
    assert in_order == backwards[::-1]


def test_seeds_give_different_yards_and_frames_differ(scenes: dict[int, YardScene]) -> None:
    """Otherwise held-out seeds would prove nothing, and the demo would stand still."""
    pictures = {scene.render(0)[0].tobytes() for scene in scenes.values()}
    pictures.add(scenes[1].render(1)[0].tobytes())
    assert len(pictures) == len(SEEDS) + 1


@pytest.mark.parametrize("seed", SEEDS)
def test_truth_boxes_lie_inside_the_picture(scenes: dict[int, YardScene], seed: int) -> None:
    """A box outside its frame cannot be drawn or scored."""
    scene, count = scenes[seed], 0
    for number in range(0, 3000, 151):
        for detection in scene.render_clean(number)[1]:
            x1, y1, x2, y2 = detection.box
            assert 0 <= x1 < x2 <= scene.width_px
            assert 0 <= y1 < y2 <= scene.height_px
            assert detection.label in LABELS
            assert detection.score == 1.0
            count += 1
    assert count > 50


@pytest.mark.parametrize("seed", SEEDS)
def test_a_person_changes_only_the_pixels_of_their_box(
    scenes: dict[int, YardScene], seed: int
) -> None:
    """The truth is exact: what the person covers, and nothing else."""
    scene = scenes[seed]
    everyone = set(range(len(scene.walkers)))
    empty, nothing = scene.render_clean(300, leave_out=everyone, shadows=False)
    assert nothing == ()
    checked = 0
    for index in everyone:
        alone, truth = scene.render_clean(300, leave_out=everyone - {index}, shadows=False)
        people = [d for d in truth if d.label == "person"]
        if not people:
            continue
        x1, y1, x2, y2 = (int(side) for side in people[0].box)
        changed = (alone != empty).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        assert (x1, y1) <= (columns[0], rows[0])
        assert columns[-1] < x2
        assert rows[-1] < y2
        # Where a sleeve has the ground's colour, a row may look unchanged.
        assert columns[0] - x1 <= 1 >= rows[0] - y1
        assert x2 - columns[-1] <= 2 >= y2 - rows[-1]
        checked += 1
    assert checked >= 3


@pytest.mark.parametrize("seed", SEEDS)
def test_every_helmet_lies_in_the_box_of_a_person(scenes: dict[int, YardScene], seed: int) -> None:
    """Helmets are only ever worn, and their pixels are the wearer's."""
    helmets = 0
    for number in range(0, 3000, 300):
        truth = scenes[seed].render_clean(number)[1]
        people = [d.box for d in truth if d.label == "person"]
        for helmet in (d.box for d in truth if d.label == "helmet"):
            helmets += 1
            assert any(
                p[0] <= helmet[0] and p[1] <= helmet[1] and helmet[2] <= p[2] and helmet[3] <= p[3]
                for p in people
            )
    assert helmets > 5


def test_helmets_are_as_small_as_six_pixels(scenes: dict[int, YardScene]) -> None:
    """The sample is about small objects; a scene of large ones would flatter any detector."""
    areas = [
        area_px2(detection)
        for scene in scenes.values()
        for number in range(0, 3000, 151)
        for detection in scene.render_clean(number)[1]
        if detection.label == "helmet"
    ]
    assert min(areas) <= 40
    assert np.mean(np.array(areas) < 12**2) > 0.3


def test_what_is_hidden_is_not_in_the_truth() -> None:
    """A detector cannot be asked for what no pixel shows."""
    scene = YardScene(2)
    open_view = scene._backdrop
    wall = np.zeros_like(open_view.inverse_depth)
    wall[:, : scene.width_px // 2] = 10.0  # ten centimetres before the lens
    scene._backdrop = dataclasses.replace(open_view, inverse_depth=wall)
    seen = [d for number in range(0, 900, 90) for d in scene.render_clean(number)[1]]
    assert seen
    assert min(d.box[0] for d in seen) >= scene.width_px // 2
    scene._backdrop = dataclasses.replace(open_view, inverse_depth=np.full_like(wall, 10.0))
    image, truth = scene.render_clean(90, shadows=False)
    assert truth == ()
    assert (image == open_view.image).all()


def test_nobody_jumps_between_frames(scenes: dict[int, YardScene]) -> None:
    """At 30 fps a walker moves a few centimetres, also where a path or a schedule closes."""
    for walker in scenes[1].walkers:
        period = float(walker.times_s[-1])
        times = period - walker.start_s + np.arange(-30, 30) / 30
        spots = np.array([(pose.x_m, pose.y_m) for pose in map(walker.pose_at, times)])
        assert np.linalg.norm(np.diff(spots, axis=0), axis=1).max() < 0.1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"seed": -1}, "seed -1"),
        ({"fps": 0.0}, "0.0 frames per second"),
        ({"width_px": 4}, "4x400"),
        ({"height_px": 100_000}, "640x100000"),
    ],
)
def test_a_scene_that_cannot_be_is_refused(arguments: dict[str, int], named: str) -> None:
    """The error names the number that was wrong."""
    with pytest.raises(ConfigError, match=named):
        YardScene(**arguments)


def test_a_negative_frame_is_refused(scenes: dict[int, YardScene]) -> None:
    """Frames are counted from 0; Python's "from the end" has no meaning here."""
    with pytest.raises(ConfigError, match="-3"):
        scenes[1].render(-3)
