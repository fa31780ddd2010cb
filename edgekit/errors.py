"""The error tree: one subclass per thing the reader can do about it.

::

    EdgeKitError
    ├── ConfigError   edit a file or a flag
    ├── ModelError    change the model, or how it is taken
    ├── PlanError     relax a limit, or choose another cut
    ├── TrustError    refused: digest, size, signature or version; never retry
    ├── LinkError     the network or the broker: retry
    └── DeviceError   look at the board: camera, disk, memory, runtime

Imports nothing from the package. The command line maps each class to an exit code.
"""


class EdgeKitError(Exception):
    """Root of all EdgeKit errors. ``hint`` is the next thing to try."""

    exit_code = 1

    def __init__(self, what: str, *, hint: str) -> None:
        super().__init__(f"{what}. Try: {hint}.")
        self.what, self.hint = what, hint


class ConfigError(EdgeKitError):
    """A file or flag must be edited."""

    exit_code = 2


class ModelError(EdgeKitError):
    """The model cannot be taken as it is."""

    exit_code = 3


class PlanError(EdgeKitError):
    """No plan fits, or the cut asked for is not legal."""

    exit_code = 4


class TrustError(EdgeKitError):
    """Refused: digest, size, signature or version. Never retry with the same bytes."""

    exit_code = 5


class LinkError(EdgeKitError):
    """The network, the broker or a hop failed. Retrying may help."""

    exit_code = 6


class DeviceError(EdgeKitError):
    """The board failed: camera, disk, memory or runtime."""

    exit_code = 7
