"""An emulated fleet on one machine: unequal devices in namespaces, joined by links of real rates.

layout -> kernel, relay, limits -> testbed (agents run in it); calibrate measures what it made.

Needs root and Linux. Compute is emulated by dilation (``edgekit.runtime.dilated``), links by tbf
and a relay that delays packets, memory by cgroups.
"""
