"""Golden vectors: exact, the same bytes every time, and no code inside."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.bundle.golden import Golden, golden_from_bytes, golden_path, golden_to_bytes
from edgekit.errors import TrustError


@given(
    st.dictionaries(
        st.text("abc/.:_0", min_size=1, max_size=8),
        arrays(st.sampled_from([np.float32, np.uint8, np.int64]), st.sampled_from([(), (2, 3)])),
        max_size=3,
    )
)
def test_vectors_read_back_bit_by_bit(tensors: dict[str, np.ndarray]) -> None:
    """Shapes and types too, whatever the tensors are called."""
    data = golden_to_bytes(Golden(inputs=tensors, outputs=tensors))
    golden = golden_from_bytes(data, origin="test")
    for side in (golden.inputs, golden.outputs):
        assert side.keys() == tensors.keys()
        for name, array in tensors.items():
            assert side[name].dtype == array.dtype
            assert side[name].shape == array.shape
            assert side[name].tobytes() == array.tobytes()
    assert golden_to_bytes(golden) == data


def test_a_strided_array_is_stored_as_it_reads() -> None:
    """Outputs may be views."""
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    data = golden_to_bytes(Golden(inputs={}, outputs={"x": array}))
    assert np.array_equal(golden_from_bytes(data, origin="test").outputs["x"], array)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"not a zip" * 100])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    """By its name."""
    with pytest.raises(TrustError, match=r"golden/shard-3\.npz"):
        golden_from_bytes(data, origin=golden_path(3))


def test_a_pickle_is_refused() -> None:
    """An archive could carry code; numpy must not run it."""
    member = io.BytesIO()
    np.lib.format.write_array(member, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("in:x.npy", member.getvalue())
    with pytest.raises(TrustError, match="golden vectors"):
        golden_from_bytes(buffer.getvalue(), origin="g")
