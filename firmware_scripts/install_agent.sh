#!/bin/sh
# Install the EdgeKit agent on this board and start it at boot. Safe to run again: it updates.
#
#   sudo firmware_scripts/install_agent.sh agent.toml
#
# Needs: Debian or Raspberry Pi OS, 64-bit, Python 3.10 or newer; on a Jetson JetPack 6 or 7, whose
# own TensorRT and OpenCV it uses. Installs the base package only.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
config=${1:-}

fail() { echo "install_agent: $1. Try: $2." >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "this writes to /opt and /etc" "sudo $0 agent.toml"
[ -n "$config" ] || fail "no agent.toml given" "$0 agent.toml (see the README)"
[ -f "$config" ] || fail "there is no file $config" "check the path"
case $(uname -m) in
  aarch64 | x86_64) ;;
  *) fail "$(uname -m) has no onnxruntime wheels" "a 64-bit system image" ;;
esac
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  fail "Python $(python3 -V) is too old" "a system image with Python 3.10 or newer"

apt-get install -y -qq --no-install-recommends python3-venv libgl1 libglib2.0-0 >/dev/null
if [ -f /etc/nv_tegra_release ]; then
  # TensorRT of a Jetson comes with JetPack and nowhere else: let the environment see the system's.
  apt-get install -y -qq --no-install-recommends python3-libnvinfer >/dev/null ||
    echo "install_agent: no python3-libnvinfer; shards will run on the processor" >&2
  site=--system-site-packages
else
  site=
fi
[ -x /opt/edgekit/bin/python ] || python3 -m venv $site /opt/edgekit
/opt/edgekit/bin/pip install -q --upgrade "$here"

# What this board can do, and the commands that mend what it cannot; says so, and goes on.
/opt/edgekit/bin/edgekit doctor --store /var/lib/edgekit ||
  echo "install_agent: see the lines marked MISSING above; installing all the same" >&2

id edgekit >/dev/null 2>&1 || useradd --system --no-create-home --groups video edgekit
install -d -m 755 /etc/edgekit
install -m 640 -g edgekit "$config" /etc/edgekit/agent.toml
install -m 644 "$here/firmware_scripts/systemd/edgekit-agent.service" /etc/systemd/system/
systemctl daemon-reload
systemctl enable edgekit-agent
systemctl restart edgekit-agent
echo "installed; follow it with: journalctl -fu edgekit-agent"
