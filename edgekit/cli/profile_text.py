"""How parts of a profile read, wherever they are shown.

In:  a DeviceProfile.  Out: one line for people; "not measured", never a zero that looks like one.
"""

from edgekit.spec.profile import DeviceProfile
from edgekit.units import format_bytes


def energy_text(profile: DeviceProfile) -> str:
    """Power idle and busy, and by which meter."""
    if (energy := profile.energy) is None:
        return "not measured"
    inference_j = energy.inference_j(1e-3)
    return (
        f"{energy.idle_w:.1f} W idle, {energy.busy_w:.1f} W busy ({energy.meter}): "
        f"{1e3 * inference_j:.3g} mJ for each ms of inference"
    )


def session_memory_text(profile: DeviceProfile) -> str:
    """What a session takes, and how well that predicts."""
    if (known := profile.session_memory) is None:
        return "not measured"
    return (
        f"{format_bytes(known.base_bytes)} + {known.conv_weight_factor:.2g} x weights of "
        f"convolutions + {known.activation_factor:.2g} x activations "
        f"({known.mape_percent:.1f} % off on {known.shard_count} made-up networks)"
    )


def conditions_text(profile: DeviceProfile) -> str:
    """What the board was like while it was measured."""
    if profile.source == "datasheet":
        return "not measured"
    seen = profile.conditions
    parts = [f"load {seen.load_1min:.2f}", *filter(None, (seen.governor, seen.power_mode))]
    before, after = seen.temperature_before_celsius, seen.temperature_after_celsius
    if before is not None and after is not None:
        parts.append(f"{before:.0f} to {after:.0f} degrees Celsius")
    if seen.throttle_flags:
        parts.append(f"throttled: {seen.throttle_flags}")
    if seen.scatter:
        parts.append(f"runs scatter by {seen.scatter:.2f}x")
    return ", ".join(parts)
