"""Names and addresses of emulated fleets, without touching the kernel."""

import ipaddress
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import ConfigError
from edgekit.spec.fleet import Device, Fleet, Link
from tests.testbed.calibrate import dilations
from tests.testbed.layout import layout_of


def fleet_of(count: int, pairs: list[tuple[int, int]], rtt: str = "1 ms") -> Fleet:
    names = [f"device-{number}" for number in range(count)]
    return Fleet(
        name="bed",
        device=tuple(Device(name=name) for name in names),
        link=tuple(
            Link(source=names[one], target=names[other], bandwidth="50 Mbit/s", rtt=rtt)
            for one, other in pairs
        ),
    )


@given(st.integers(2, 12).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.lists(st.sampled_from(list(combinations(range(count), 2))), unique=True, max_size=20),
    )
))  # fmt: skip
def test_no_two_ends_share_an_address_or_an_interface(
    shape: tuple[int, list[tuple[int, int]]],
) -> None:
    layout = layout_of(fleet_of(*shape), key="k")
    addresses = [layout.host_address]
    addresses += [one for seat in layout.seats for one in (seat.address, seat.uplink_address)]
    addresses += [one for wire in layout.wires for one in wire.addresses]
    assert len(set(addresses)) == len(addresses)
    assert all(ipaddress.ip_address(one).is_private for one in addresses)
    names = [layout.bridge, *(seat.uplink for seat in layout.seats)]
    names += [one for wire in layout.wires for one in wire.interfaces]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 15 and name.startswith(layout.tag) for name in names)


def test_two_testbeds_share_no_name() -> None:
    fleet = fleet_of(2, [(0, 1)])
    assert layout_of(fleet, key="one").tag != layout_of(fleet, key="other").tag


def test_a_link_has_its_two_rates_and_half_its_round_trip_each_way() -> None:
    fleet = Fleet(
        name="bed",
        device=(Device(name="a"), Device(name="b")),
        link=(
            Link(
                source="a", target="b", bandwidth="80 Mbit/s", bandwidth_back="8 Mbit/s",
                rtt="26 ms",
            ),
        ),
    )  # fmt: skip
    (wire,) = layout_of(fleet, key="k").wires
    assert wire.bytes_per_s == (10e6, 1e6)
    assert wire.delay_s == pytest.approx(13e-3)


def test_a_round_trip_too_short_to_emulate_is_left_as_it_is() -> None:
    (wire,) = layout_of(fleet_of(2, [(0, 1)], rtt="1 ms"), key="k").wires
    assert wire.delay_s == 0


def test_two_links_between_one_pair_are_refused() -> None:
    with pytest.raises(ConfigError, match="joins two devices twice"):
        layout_of(fleet_of(2, [(0, 1), (1, 0)]), key="k")


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(ConfigError, match="no device 'phone'"):
        layout_of(fleet_of(2, []), key="k").seat("phone")


def test_the_fastest_device_is_not_slowed_down() -> None:
    fleet = Fleet(
        name="bed",
        device=(Device(name="a", relative_speed=2.0), Device(name="b", relative_speed=8.0)),
    )
    assert dilations(fleet) == {"a": 4.0, "b": 1.0}
