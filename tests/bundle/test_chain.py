"""Tensors along a chain of shards."""

import numpy as np
import pytest

from edgekit.bundle.chain import advance, run_chain
from edgekit.errors import ModelError
from edgekit.runtime.echo import EchoSession
from edgekit.spec.tensors import Array, TensorSpec


def spec(name: str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=(1,))


def shard(reads: str, makes: str, add: float) -> EchoSession:
    def function(inputs: dict[str, Array]) -> dict[str, Array]:
        assert list(inputs) == [reads], "a shard is fed exactly what it reads"
        return {makes: inputs[reads] + add}

    return EchoSession(inputs=(spec(reads),), outputs=(spec(makes),), function=function)


def test_a_tensor_that_passes_through_never_visits_the_runtime() -> None:
    """An early output, made on the first device, reaches the last one untouched."""
    first, second, third = shard("x", "early", 1), shard("x", "y", 2), shard("y", "z", 3)
    inputs = {"x": np.zeros(1)}
    leaving = [("early", "x"), ("early", "y"), ("early", "z")]
    hops = list(run_chain([first, second, third], leaving, inputs))
    assert [list(left) for _, left in hops] == [list(names) for names in leaving]
    assert hops[2][1]["z"] == 5
    assert hops[2][1]["early"] is hops[0][1]["early"]
    assert list(hops[1][0]) == ["early", "x"]


@pytest.mark.parametrize(("names", "word"), [(["w"], "'w'"), (["z"], "'y'")])
def test_a_tensor_that_nobody_made_is_named(names: list[str], word: str) -> None:
    """Bundles that do not fit together must not fail with a KeyError."""
    with pytest.raises(ModelError, match=word):
        advance(shard("x" if word == "'w'" else "y", "z", 0), {"x": np.zeros(1)}, names)
