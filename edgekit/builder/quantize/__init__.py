"""Int8 that is proved before it ships: calibrate, quantize, time, score, decide."""

from edgekit.builder.quantize.frames import calibration_frames, image_input
from edgekit.builder.quantize.gate import Verdict, quantize_model
from edgekit.builder.quantize.recipes import RECIPES, recipe_for, target_here

__all__ = [
    "RECIPES",
    "Verdict",
    "calibration_frames",
    "image_input",
    "quantize_model",
    "recipe_for",
    "target_here",
]
