"""The real hop: TCP, with TLS 1.3 when certificates are given. See port.py for what it promises.

::

    link (upstream)                     listener (downstream)
      Hello: who, which pipeline
        and which codec           ->
                                  <-    Welcome + credit, or Refuse + reason
      ActivationHeader + tensors  ->    at most as many as there is credit
                                  <-    Credit, as frames leave the queue
                                  <-    AnswerHeader + detections, one per activation
      Ping, Pong                 <->    every half second; silence for 1.5 s ends the connection
      Bye + reason               <->

Ends: hop_link.py, hop_listener.py, handout.py. Format: headers.py, frames.py, codecs/. Socket:
dialer.py, wire.py. Messages over it: connection.py. Bytes per frame: hop_pace.py. Fake: memory.py.
"""

from edgekit.transport.connection import HEARTBEAT_S, SILENCE_LIMIT_S
from edgekit.transport.hop_link import TcpHopLink
from edgekit.transport.hop_listener import TcpHopListener

__all__ = ["HEARTBEAT_S", "SILENCE_LIMIT_S", "TcpHopLink", "TcpHopListener"]
