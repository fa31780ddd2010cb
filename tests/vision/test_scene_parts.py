import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.vision.scene.body import build_body
from edgekit.vision.scene.camera import Camera
from edgekit.vision.scene.layout import FAR_M, plan_layout
from edgekit.vision.scene.sensor import Sensor
from edgekit.vision.scene.walkers import invite_walkers, is_free

CAMERA = Camera(width_px=640, height_px=400, focal_px=600.0, mount_m=6.0, pitch_rad=0.4)


@given(x=st.floats(-15, 15), y=st.floats(6, 60))
def test_ground_points_project_to_the_pixel_that_sees_them(x: float, y: float) -> None:
    """Projection and its inverse must agree, or people would float beside their shadows."""
    (u, v), _ = CAMERA.project(np.array([x, y, 0.0]))
    if not (0 <= u < 640 and 0 <= v < 400):
        return
    seen_x, seen_y = CAMERA.ground_m()
    row, column = int(v), int(u)
    # Half a pixel is at most this far on the ground, more so towards the horizon.
    reach = y**2 / (CAMERA.focal_px * CAMERA.mount_m) + 0.02
    assert abs(float(seen_y[row, 0]) - y) <= reach
    assert abs(float(seen_x[row, column]) - x) <= reach * (1 + abs(x) / y)


@given(z=st.floats(0.1, 5), x=st.floats(-4, 4))
def test_a_planes_inverse_depth_is_that_of_its_points(z: float, x: float) -> None:
    """The depth test compares these numbers between obstacles and people."""
    wall = np.array([[-5.0, 20.0, 0.0], [5.0, 22.0, 0.0], [5.0, 22.0, 6.0]])
    point = np.array([x, 21.0 + 0.2 * x, z])
    a, b, c = CAMERA.plane_inverse_depth(wall)
    right, down, ahead = CAMERA.to_camera_axes(point)
    assert a * right / ahead + b * down / ahead + c == pytest.approx(1 / ahead, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40))
def test_every_seed_has_a_yard_in_which_people_can_walk(seed: int) -> None:
    """No seed may fail, and nobody walks through a container."""
    layout = plan_layout(seed)
    walkers = invite_walkers(layout)
    assert len(walkers) == layout.people_count >= 5
    for walker in walkers:
        assert is_free(walker.path_m, layout.obstacles, 0.25).all()
        assert walker.path_m[:, 1].max() <= FAR_M + 1
        assert np.allclose(walker.path_m[0], walker.path_m[-1])


def test_every_kind_of_light_and_ground_occurs() -> None:
    """Low light is part of what the sample is trained and measured on."""
    layouts = [plan_layout(seed) for seed in range(60)]
    assert {layout.light.daylight for layout in layouts} == {"sun", "overcast", "dusk", "night"}
    assert {layout.ground for layout in layouts} == {"asphalt", "concrete", "gravel"}


@settings(max_examples=30, deadline=None)
@given(time_s=st.floats(0, 1e5))
def test_a_body_stands_on_the_ground_and_is_as_tall_as_its_owner(time_s: float) -> None:
    """Feet never sink and heads never float, at any moment of the walk."""
    for walker in invite_walkers(plan_layout(3)):
        body = build_body(walker.looks, walker.pose_at(time_s))
        height_m = body.points_m[:, 2]
        assert height_m.min() >= 0.0
        assert height_m.min() < 0.12
        assert height_m.max() < walker.looks.height_m + 0.2
        assert height_m.max() > 0.6 * walker.looks.height_m


def test_noise_differs_between_frames_and_keeps_the_mean() -> None:
    """Noise that stood still would be a pattern to learn; noise with a bias would be light."""
    light = plan_layout(4).light
    sensor = Sensor(4, 64, 48, light)
    grey = np.full((48, 64, 3), 128, np.uint8)
    one, other = sensor.expose(grey, 0), sensor.expose(grey, 1)
    assert (one != other).any()
    assert (one == sensor.expose(grey, 0)).all()
    assert abs(float(one.mean()) - float(other.mean())) < 1.5
