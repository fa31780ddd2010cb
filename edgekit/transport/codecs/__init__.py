"""Activation codecs: how a cut's tensors are written for the wire."""

from edgekit.transport.codecs.calibrate import calibrate
from edgekit.transport.codecs.codec import make_codec
from edgekit.transport.codecs.cost import measured_codec_costs
from edgekit.transport.codecs.fit import fit_codec, fit_klt
from edgekit.transport.codecs.port import Codec, CodedGroup, CodedHeader, CodedTensor, Encoded

__all__ = [
    "Codec",
    "CodedGroup",
    "CodedHeader",
    "CodedTensor",
    "Encoded",
    "calibrate",
    "fit_codec",
    "fit_klt",
    "make_codec",
    "measured_codec_costs",
]
