"""The model as a strip: segments as wide as their work, cuts marked, tensors that cross named."""

from edgekit.dashboard.model_strip import ModelStrip, StripCut, StripShard
from edgekit.dashboard.page.dom import card, div, text

_TENSORS_MAX = 8


class Strip:
    """Rebuilt when the plan, or who serves it, changes."""

    def __init__(self) -> None:
        with card("Model", "ek-model"):
            self._box = div("ek-strip-box", name="ek-strip")
        self._shown: ModelStrip | None = None
        with self._box:
            text("no deployment is announced yet", "ek-quiet")

    def update(self, strip: ModelStrip | None) -> None:
        """Show this plan; what was last known stays if it is withdrawn."""
        if strip is None or strip == self._shown:
            return
        self._shown = strip
        self._box.clear()
        with self._box:
            with div("ek-model-line"):
                text(strip.model, "ek-model-name")
                text(f"{strip.work} per frame", "ek-quiet")
                text(f"cut {strip.rule}, deployment {strip.deployment}", "ek-quiet ek-mono")
            columns = " ".join(
                f"minmax(92px, {max(shard.share, 0.01):.4f}fr)" for shard in strip.shards
            )
            with div("ek-strip").style(f"grid-template-columns: {columns}"):
                for index, shard in enumerate(strip.shards):
                    _segment(shard, index)
            if not strip.cuts:
                text("not split: nothing crosses", "ek-quiet")
            for index, cut in enumerate(strip.cuts):
                _cut(cut, index)


def _segment(shard: StripShard, index: int) -> None:
    dim = "" if shard.is_serving else " ek-dim"
    with div(f"ek-segment ek-color{shard.color % 6}{dim}"):
        if index > 0:
            text(str(index), "ek-cut-mark")
        text(shard.device, "ek-segment-name")
        text(f"{100 * shard.share:.0f} % of the work", "ek-segment-share")
        text(f"{shard.work} · weights {shard.weights}", "ek-segment-detail")


def _cut(cut: StripCut, index: int) -> None:
    with div("ek-cut"):
        text(str(index + 1), "ek-cut-badge")
        with div("ek-cut-text"):
            count = len(cut.tensors)
            noun = "tensor crosses" if count == 1 else f"{count} tensors cross"
            verb = f"{noun}: " if count > 1 else f"one {noun}: "
            text(f"{verb}{cut.crossing} per frame", "ek-cut-bytes")
            for tensor in cut.tensors[:_TENSORS_MAX]:
                text(tensor, "ek-mono ek-tensor")
            if count > _TENSORS_MAX:
                text(f"and {count - _TENSORS_MAX} more", "ek-quiet")
