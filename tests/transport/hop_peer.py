"""A downstream device in its own process, for tests that kill or stop it.

Usage: python hop_peer.py PORT. Prints the port it listens on, then answers until it is killed.
"""

import sys
import time

from hop_world import Downstream, identity

from edgekit.transport.hop import TcpHopListener

if __name__ == "__main__":
    listener = TcpHopListener(
        "127.0.0.1", int(sys.argv[1]), on_activation=Downstream().on_activation, credit_count=2
    )
    listener.serve(identity("edge-b"))
    print(listener.address[1], flush=True)
    while True:
        time.sleep(60)
