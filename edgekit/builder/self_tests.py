"""What a device checks itself with: what enters its shard, and what must come out.

In:  the shards of a plan as files, one input of the model.  Out: the golden vectors of each shard.
Where they would be large together they are left out, but never those of a shard that TensorRT runs:
no engine may serve that was not compared with them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.bundle.chain import leaving_of, run_chain
from edgekit.bundle.golden import MAX_GOLDEN_BYTES, Golden, golden_to_bytes
from edgekit.runtime.ort import OrtSession
from edgekit.spec.agent_config import Optimization
from edgekit.spec.plan import Plan
from edgekit.spec.tensors import Array


def golden_vectors(
    inputs: Mapping[str, Array], plan: Plan, paths: Sequence[Path], *, level: Optimization
) -> list[bytes]:
    """Files of golden vectors, one for each shard at ``paths``; empty where there is to be none."""
    sessions = [OrtSession(path, optimization=level) for path in paths]
    leaving = [[spec.name for spec in leaving_of(plan, index)] for index in range(len(paths))]
    vectors = []
    chain = run_chain(sessions, leaving, inputs)
    for session, (entered, left) in zip(sessions, chain, strict=True):
        reads = {spec.name: entered[spec.name] for spec in session.inputs}
        makes = {spec.name: left[spec.name] for spec in session.outputs}
        vectors.append(Golden(inputs=reads, outputs=makes))
    is_small = sum(golden.nbytes for golden in vectors) <= MAX_GOLDEN_BYTES
    return [
        golden_to_bytes(golden) if is_small or placement.engine else b""
        for golden, placement in zip(vectors, plan.placements, strict=True)
    ]
