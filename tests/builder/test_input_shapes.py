"""Input shapes: fixed by the file or by the user, never guessed in silence."""

import pytest

from edgekit.builder.input_shapes import resolve_inputs
from edgekit.errors import ConfigError, ModelError
from tests.graphs import model

Dims = list[int | str]


def resolved(dims: Dims, **given: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    (spec,), notes = resolve_inputs(model([], {"image": dims}, []), given)
    return spec.shape, notes


def test_a_fixed_shape_is_taken_as_it_is() -> None:
    """And nothing is said."""
    assert resolved([1, 3, 8, 8]) == ((1, 3, 8, 8), ())


def test_an_open_batch_becomes_one_and_is_said() -> None:
    """Cameras give one frame at a time."""
    shape, notes = resolved(["N", 3, 8, 8])
    assert shape == (1, 3, 8, 8)
    assert "'N' is taken as 1" in notes[0]


def test_open_height_and_width_are_refused_with_the_flag_to_add() -> None:
    """The flag can be copied and pasted."""
    with pytest.raises(ConfigError) as caught:
        resolved(["batch", 3, "height", "width"])
    assert "batchx3xheightxwidth" in caught.value.what
    assert "--input image=1x3x320x320" in caught.value.hint


@pytest.mark.parametrize(
    ("dims", "flag"),
    [
        ([1, "h", "w", 3], "1x320x320x3"),
        (["n", "h"], "1x1"),
        ([1, 1, "h", "w"], "1x1x320x320"),
    ],
)
def test_the_suggested_flag_keeps_what_the_file_fixes(dims: Dims, flag: str) -> None:
    """Channels last, gray, or no image at all."""
    with pytest.raises(ConfigError) as caught:
        resolved(dims)
    assert f"--input image={flag}" in caught.value.hint
    given = tuple(int(part) for part in flag.split("x"))
    assert resolved(dims, image=given)[0] == given


def test_a_given_shape_fixes_open_dimensions() -> None:
    """Any of them, batch included."""
    shape = resolved(["n", 3, "h", "w"], image=(2, 3, 16, 32))[0]
    assert shape == (2, 3, 16, 32)


@pytest.mark.parametrize(
    ("given", "words", "hint"),
    [
        ((1, 4, 8, 8), "contradicts", "--input image=1x3x8x8"),
        ((3, 8, 8), "3 dimensions", "--input image=1x3x320x320"),
    ],
)
def test_a_given_shape_that_contradicts_the_file_is_refused(
    given: tuple[int, ...], words: str, hint: str
) -> None:
    """With the shape that would do."""
    with pytest.raises(ConfigError) as caught:
        resolved([1, 3, "h", "w"], image=given)
    assert words in caught.value.what
    assert hint in caught.value.hint


def test_an_unknown_input_name_is_refused_with_the_real_ones() -> None:
    """Names differ between exporters."""
    with pytest.raises(ConfigError, match="inputs are image"):
        resolved([1, 3, 8, 8], images=(1, 3, 8, 8))


def test_weights_among_the_inputs_are_no_inputs() -> None:
    """Old exporters list them there."""
    import numpy as np

    proto = model([], {"image": [1, 2], "w": [2]}, [], weights={"w": np.zeros(2, np.float32)})
    specs, _ = resolve_inputs(proto, {})
    assert [spec.name for spec in specs] == ["image"]


def test_a_model_without_input_is_refused() -> None:
    """There is nothing to film for."""
    with pytest.raises(ModelError, match="no input"):
        resolve_inputs(model([], {}, []), {})
