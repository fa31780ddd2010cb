"""Check-up of the board itself: cameras, memory, disk, heat, power, clock, and a broker.

In:  a Host.  Out: Findings.
Source: Linux video4linux, thermal, rtc and hwmon sysfs; systemd-timesyncd's marker file.
"""

from pathlib import Path

from edgekit.profiler.checkup.finding import Finding, Status
from edgekit.profiler.checkup.host import Host
from edgekit.profiler.conditions import HOT_CELSIUS, complaints, observe
from edgekit.spec.profile import Conditions

_NO_CAMERA = ("codec", "isp", "hevc", "pispbe", "image_fx", "stateless", "rpivid", "decoder",
              "encoder")  # fmt: skip
"""In the names of a Raspberry Pi's video devices that are no cameras."""
_FREE_BYTES_WARN, _FREE_BYTES_LEAST = 1 << 30, 200 << 20
_MEMORY_BYTES_WARN, _MEMORY_BYTES_LEAST = 300 << 20, 120 << 20
"""An agent with a small shard takes 60 to 90 MB, OpenCV and the model come on top."""
_BUILT_S = 1.75e9
"""May 2025: no clock that is right shows less."""


def check_cameras(host: Host) -> Finding:
    """Which cameras, and may this user read them?"""
    found = []
    for path in host.names("dev/video*"):
        name = host.text(f"sys/class/video4linux/{Path(path).name}/name")
        if not any(word in name.lower() for word in _NO_CAMERA):
            found.append((path, f"/{path}{f' ({name})' if name else ''}"))
    if not found:
        says = "no /dev/video*: only files, network streams and scenes can be filmed"
        return Finding(name="cameras", status="none", says=says)
    if closed := [text for path, text in found if not host.can_read(path)]:
        says = f"{closed[0]} may not be read by this user"
        fix = "sudo usermod -aG video $USER, then log in again"
        return Finding(name="cameras", status="warn", says=says, fix=fix)
    return Finding(name="cameras", status="ok", says=", ".join(text for _, text in found))


def check_broker(host: Host) -> Finding:
    """Mosquitto; one machine of the fleet needs it."""
    if path := host.tool("mosquitto"):
        return Finding(name="mosquitto", status="ok", says=path)
    says = "not here; only the broker's machine needs it"
    return Finding(name="mosquitto", status="none", says=says, fix="sudo apt install mosquitto")


def check_disk(host: Host, folder: Path) -> Finding:
    """Is there room for shards, engines and the last good deployment?"""
    free_bytes = host.free_bytes(folder)
    says = f"{free_bytes / 1e9:.1f} GB free for {folder}"
    if free_bytes >= _FREE_BYTES_WARN:
        return Finding(name="disk", status="ok", says=says)
    status: Status = "missing" if free_bytes < _FREE_BYTES_LEAST else "warn"
    return Finding(
        name="disk", status=status, says=says, fix="sudo apt clean && pip cache purge"
    )  # fmt: skip


def check_memory(host: Host) -> Finding:
    """Is there memory for an agent?"""
    sizes = {}
    for line in host.text("proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            sizes[name] = int(words[0]) * 1024
    if "MemAvailable" not in sizes:
        return Finding(name="memory", status="none", says="this system does not say")
    available_bytes, total_bytes = sizes["MemAvailable"], sizes.get("MemTotal", 0)
    says = f"{available_bytes / 1e6:.0f} MB available of {total_bytes / 1e6:.0f}"
    if available_bytes >= _MEMORY_BYTES_WARN:
        return Finding(name="memory", status="ok", says=says)
    status: Status = "missing" if available_bytes < _MEMORY_BYTES_LEAST else "warn"
    fix = "stop what else runs (on a desktop image: sudo systemctl set-default multi-user.target)"
    return Finding(name="memory", status=status, says=says, fix=fix)


def check_conditions(host: Host) -> Finding:
    """Heat, throttling, clock governor, power mode, load."""
    now = observe(host)
    heat = now.temperature_before_celsius
    parts = [
        f"{heat:.0f} degrees Celsius" if heat is not None else "",
        now.throttle_flags,
        f"governor {now.governor}" if now.governor else "",
        f"power mode {now.power_mode}" if now.power_mode else "",
        f"load {now.load_1min:.2f}",
    ]
    says = ", ".join(part for part in parts if part)
    if complaints(now) or "since boot" in now.throttle_flags:
        fix = _relief(now)
        return Finding(name="heat and power", status="warn", says=says, fix=fix)
    return Finding(name="heat and power", status="ok", says=says)


def _relief(now: Conditions) -> str:
    if "under-voltage" in now.throttle_flags:
        return "use the power supply that the board asks for, and a short cable"
    if now.governor == "powersave":
        return "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    if now.throttle_flags or (now.temperature_before_celsius or 0.0) >= HOT_CELSIUS:
        return "give the board a fan or a heat sink, and profile it again"
    return "stop what else runs before `edgekit profile` (look at `top`)"


def check_clock(host: Host) -> Finding:
    """Is the date right? Certificates are refused otherwise; latencies are taken by one clock."""
    if host.now_s < _BUILT_S:
        says = "the date is wrong: no certificate will be accepted"
        fix = "sudo timedatectl set-ntp true, or sudo date -s '...' where there is no network"
        return Finding(name="clock", status="missing", says=says, fix=fix)
    has_battery = bool(host.names("sys/class/rtc/rtc[0-9]*"))
    is_synchronized = bool(host.names("run/systemd/timesync/synchronized")) or (
        host.output("timedatectl", "show", "-p", "NTPSynchronized", "--value") == "yes"
    )
    if is_synchronized:
        return Finding(name="clock", status="ok", says="synchronized over the network")
    if has_battery:
        says = "a clock of its own, not synchronized: times of two devices may differ"
        return Finding(name="clock", status="ok", says=says)
    if host.machine == "x86_64":
        says = "no clock of its own, as in a virtual machine: its host keeps the time"
        return Finding(name="clock", status="ok", says=says)
    return Finding(
        name="clock", status="warn",
        says="no clock that survives power-off, and none over the network: after a cold start the "
        "date is wrong and certificates are refused",
        fix="sudo timedatectl set-ntp true",
    )  # fmt: skip
