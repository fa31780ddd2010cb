"""The process in which TensorRT is asked what it refuses: ``python -m … SHARD.onnx``.

In:  the path of a shard.  Out: one line of JSON, a Verdict; or an error on standard error.
"""

import os
import sys
from pathlib import Path

from edgekit.builder.tensorrt_build.parser import Verdict
from edgekit.errors import EdgeKitError
from edgekit.runtime.tensorrt import find_library, refusals_of
from edgekit.spec.base import to_json


def main(path: Path) -> int:
    """Asks, and prints what was answered."""
    try:
        library = find_library()
        refusals = refusals_of(library, path)
    except EdgeKitError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    verdict = Verdict(
        label=library.label,
        refusals=tuple((one.operator, one.node, one.reason) for one in refusals),
    )
    os.write(sys.stdout.fileno(), to_json(verdict, indent=0) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
