"""Bytes between machines: the hop (activations), the MQTT session, the embedded broker."""
