"""Measure how much accuracy sub-models, codecs and frame codecs lose, for the planner."""
