"""One line of a check-up: what was looked at, what was found, and what mends it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "missing", "none"]
"""ok: works. warn: works less well than it could. missing: a shard that should run here cannot.
none: this board does not have it, and does not need it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one probe found."""

    name: str
    status: Status
    says: str
    fix: str = ""
    """The command that mends it, or the next thing to do; empty where nothing is to be mended."""


def is_fit(findings: Sequence[Finding]) -> bool:
    """Whether nothing is missing."""
    return all(one.status != "missing" for one in findings)
