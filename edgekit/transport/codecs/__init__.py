"""Activation codecs: how a cut's tensors are written for the wire."""

from edgekit.transport.codecs.calibrate import calibrate
from edgekit.transport.codecs.codec import make_codec
from edgekit.transport.codecs.cost import measured_codec_costs
from edgekit.transport.codecs.klt import fit_klt
from edgekit.transport.codecs.port import Codec, CodedHeader, CodedTensor, Encoded

__all__ = [
    "Codec",
    "CodedHeader",
    "CodedTensor",
    "Encoded",
    "calibrate",
    "fit_klt",
    "make_codec",
    "measured_codec_costs",
]
