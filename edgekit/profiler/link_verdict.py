"""From trains and bulk transfers of one direction to the bandwidth that a profile states.

In: what was measured.  Out: a LinkProfile, and sentences a reader should know.
Pure: no clock, no network.  Called by link.py.

Packet trains are the finer instrument: the kernel stamps each arrival, so a busy computer hardly
shows. Bulk transfers are the honest one: they meet loss, other traffic and token buckets as a hop
does. So: where both agree (20 %), the trains' number stands. Where bulk transfers were slower, they
stand, unless a computer was the cause: one that was ready to send or receive and got no processor
core for more than a fifth of the time. Where they were faster, they stand: what has crossed is
proof. Where trains cannot tell (no datagrams pass, or no sender is as fast as the link), bulk
transfers are all there is.
"""

from dataclasses import dataclass
from statistics import median

from edgekit.errors import LinkError
from edgekit.spec.messages import Quantiles
from edgekit.spec.profile import LinkProfile
from edgekit.transport.probe import Bulk, Echoes, Train

TRAINS_MIN_COUNT = 3
"""Trains whose spacing the link made, before their median counts."""
_AGREEMENT = 0.2
_BUSY_SHARE = 0.2
_MBIT = 8e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What was measured in one direction."""

    trains: tuple[Train, ...] = ()
    """Those long enough to tell; empty where datagrams do not pass."""
    bulks: tuple[Bulk, ...] = ()

    @property
    def train_rates_bytes_per_s(self) -> tuple[float, ...]:
        """Of the trains whose spacing the link made; empty if they were too few to count."""
        rates = tuple(one.bandwidth_bytes_per_s for one in self.trains if one.is_conclusive)
        return rates if len(rates) >= TRAINS_MIN_COUNT else ()

    @property
    def bulk_rates_bytes_per_s(self) -> tuple[float, ...]:
        """Of the transfers that were long enough to tell."""
        rates = (one.bandwidth_bytes_per_s for one in self.bulks)
        return tuple(rate for rate in rates if rate)

    @property
    def was_computer_busy(self) -> bool:
        """Whether a computer, not the link, slowed the bulk transfers down."""
        return any(one.waiting_share > _BUSY_SHARE for one in self.bulks)

    @property
    def do_methods_agree(self) -> bool:
        """Whether trains and transfers give the same bandwidth, as far as both give one."""
        trains, bulks = self.train_rates_bytes_per_s, self.bulk_rates_bytes_per_s
        return not (trains and bulks) or abs(median(bulks) / median(trains) - 1) <= _AGREEMENT

    @property
    def rates_bytes_per_s(self) -> tuple[float, ...]:
        """The repeated measurements that count; their median is the bandwidth."""
        trains, bulks = self.train_rates_bytes_per_s, self.bulk_rates_bytes_per_s
        if self.do_methods_agree:
            return trains or bulks
        is_slower = median(bulks) < median(trains)
        return trains if is_slower and self.was_computer_busy else bulks


def profile_of(way: Way, echoes: Echoes, *, source: str, target: str) -> LinkProfile:
    """One direction in one value. Raises: LinkError if neither method gave a bandwidth."""
    rates = way.rates_bytes_per_s
    if not rates:
        raise LinkError(
            f"no bandwidth could be measured from {source} to {target}: too little arrived",
            hint="probe for longer, such as --duration 20",
        )
    middle = median(rates)
    bulks, trains = way.bulk_rates_bytes_per_s, way.train_rates_bytes_per_s
    trips_ms = Quantiles.of(1e3 * trip_s for trip_s in echoes.round_trips_s)
    return LinkProfile(
        source=source,
        target=target,
        bandwidth_bytes_per_s=middle,
        rtt_p50_s=trips_ms.p50 / 1e3,
        rtt_p99_s=trips_ms.p99 / 1e3,
        loss=echoes.loss,
        spread=(max(rates) - min(rates)) / middle,
        train_bytes_per_s=median(trains) if trains else 0.0,
        bulk_bytes_per_s=median(bulks) if bulks else 0.0,
        method="packet trains" if rates == trains else "bulk transfers",
    )


def doubts_about(way: Way, which: str) -> list[str]:
    """What a reader should know before trusting the number."""
    bulks, trains = way.bulk_rates_bytes_per_s, way.train_rates_bytes_per_s
    doubts = []
    if way.trains and not trains:
        doubts.append("no sender here is as fast as the link, so packet trains tell nothing")
    if not way.do_methods_agree:
        doubts.append(
            f"packet trains say {median(trains) * _MBIT:.1f} Mbit/s, bulk transfers reached "
            f"{median(bulks) * _MBIT:.1f}: " + _cause(way, is_slower=median(bulks) < median(trains))
        )
    elif way.was_computer_busy and not trains:
        doubts.append("a computer was busy with other work, the link may be faster")
    return [f"{which}: {doubt}" for doubt in doubts]


def _cause(way: Way, *, is_slower: bool) -> str:
    if not is_slower:
        return "what has crossed counts"
    if way.was_computer_busy:
        return "a computer was busy with other work, so the trains count"
    return "loss, other traffic, or a shaper with a deep token bucket, so the transfers count"
