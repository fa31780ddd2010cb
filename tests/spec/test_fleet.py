"""Fleet files: what a machine may stand for."""

import pytest

from edgekit.errors import ConfigError
from edgekit.spec.fleet import Device, Fleet


def test_a_machine_stands_for_devices_slower_than_itself() -> None:
    devices = (Device(name="a", relative_speed=1.0), Device(name="b", relative_speed=4.0))
    alone = Fleet(name="f", device=devices)
    assert [alone.slowdown(one) for one in devices] == [4.0, 1.0]
    hosted = Fleet(name="f", device=devices, host_speed=40.0)
    assert [hosted.slowdown(one) for one in devices] == [40.0, 10.0]
    with pytest.raises(ConfigError, match=r"host_speed 2\.0 is below"):
        Fleet(name="f", device=devices, host_speed=2.0)
