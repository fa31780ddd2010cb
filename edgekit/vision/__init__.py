"""Frames and answers: sources, preprocessing, decoders, drawing. No model runs here."""
