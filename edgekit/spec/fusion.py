"""Fusion strategies (theta): which branches of a re-parameterizable block stay live.

In:  the words of a user, a fleet file or a plan.  Out: one strategy for each block of a model.
A branch is folded into the block's main kernel or kept live, never dropped, so every strategy
computes the same function. The names are those of arXiv 2411.00838: S3 is the main kernel (the
largest, whatever its size), Ss the shortcut, S1 the 1x1 branch.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from edgekit.errors import ConfigError
from edgekit.spec.base import Spec

IDENTITY, POINTWISE, POOL, COPY = "identity", "1x1", "pool", "copy"
"""Kinds of branches; any other kind is the size of its kernel, such as ``3x3`` or ``1x7``."""

_TOKENS = {IDENTITY: "Ss", POINTWISE: "S1", POOL: "Sp", COPY: "Sc"}
_KINDS = {token: kind for kind, token in _TOKENS.items()}
_SIZE = re.compile(r"[1-9][0-9]?x[1-9][0-9]?")
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
_HINT = "write S3, S3+Ss, S3+S1 or S3+Ss+S1 (also Sp: pool, Sc: copies, S5x5: that kernel)"


class FusionStrategy(Spec, frozen=True, kw_only=True):
    """Kinds of branches that stay live; all others are folded into the main kernel."""

    live: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind in self.live:
            if kind not in _TOKENS and not _SIZE.fullmatch(kind):
                raise ConfigError(f"{kind!r} is no kind of branch", hint=_HINT)
        if len(set(self.live)) != len(self.live):
            raise ConfigError(f"a branch is named twice in {self.live}", hint=_HINT)

    def keeps(self, kind: str) -> bool:
        """True if branches of this kind stay live."""
        return kind in self.live

    def __str__(self) -> str:
        known = [token for kind, token in _TOKENS.items() if kind in self.live]
        sizes = sorted(f"S{kind}" for kind in self.live if kind not in _TOKENS)
        return "+".join(["S3", *known, *sizes])


S3 = FusionStrategy()
S3_SS = FusionStrategy(live=(IDENTITY,))
S3_S1 = FusionStrategy(live=(POINTWISE,))
S3_SS_S1 = FusionStrategy(live=(IDENTITY, POINTWISE))
STRATEGIES = (S3, S3_SS, S3_S1, S3_SS_S1)
"""The four of the paper, from everything folded to everything live."""


def parse_strategy(text: str) -> FusionStrategy:
    """``S3+Ss`` as a strategy; order and case do not matter after the leading S3.

    Raises: ConfigError naming the part that is not known.
    """
    first, *others = (part.strip() for part in text.split("+"))
    if first.upper() != "S3":
        raise ConfigError(f"strategy {text!r} does not begin with S3", hint=_HINT)
    by_token = {token.lower(): kind for token, kind in _KINDS.items()}
    live = []
    for part in others:
        kind = by_token.get(part.lower()) or part[1:].lower()
        if part[:1].upper() != "S" or not (kind in _TOKENS or _SIZE.fullmatch(kind)):
            raise ConfigError(f"strategy {text!r}: {part!r} is no branch", hint=_HINT)
        live.append(POINTWISE if kind == "1x1" else kind)
    order = [*_TOKENS, *sorted(set(live) - set(_TOKENS))]
    if len(set(live)) != len(live):
        raise ConfigError(f"strategy {text!r} names a branch twice", hint=_HINT)
    return FusionStrategy(live=tuple(kind for kind in order if kind in live))


class FusionRule(Spec, frozen=True, kw_only=True):
    """One strategy for some blocks, on one device or (``*``) on every one.

    ``blocks`` is a comma-separated list of numbers (``3``), ranges (``0-5``, both ends included)
    and names, in which ``*`` stands for anything.
    """

    strategy: FusionStrategy
    blocks: str = "*"
    device: str = "*"


def choose_strategies(
    names: Sequence[str], rules: Sequence[FusionRule], *, default: FusionStrategy = S3
) -> Mapping[str, FusionStrategy]:
    """The strategy of each block of ``names`` (in model order); the last rule that matches wins.

    Raises: ConfigError if a part of a rule matches no block.
    """
    chosen = dict.fromkeys(names, default)
    for rule in rules:
        for part in rule.blocks.split(","):
            matched = _matching(part.strip(), names)
            if not matched and part.strip() != "*":
                raise ConfigError(
                    f"blocks {part.strip()!r} matches none of the {len(names)} blocks",
                    hint=f"use numbers 0-{len(names) - 1} or names such as {names[0]!r}"
                    if names
                    else "this model has no re-parameterizable block; see edgekit inspect",
                )
            chosen.update(dict.fromkeys(matched, rule.strategy))
    return chosen


def rules_on(device: str, rules: Sequence[FusionRule]) -> tuple[FusionRule, ...]:
    """Those of ``rules`` that hold on this device."""
    return tuple(rule for rule in rules if rule.device in ("*", device))


def _matching(part: str, names: Sequence[str]) -> list[str]:
    span = _RANGE.fullmatch(part)
    if span is None:
        return [name for name in names if fnmatchcase(name, part)]
    first, last = int(span[1]), int(span[2] or span[1])
    return list(names[first : last + 1]) if last < len(names) else []
