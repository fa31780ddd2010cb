"""Raw outputs of a detector -> boxes in source pixels: one file per family, one table of names."""

from edgekit.vision.decoders.registry import decode, decoder_names

__all__ = ["decode", "decoder_names"]
