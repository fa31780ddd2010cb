"""EdgeKit: a trained vision model in, a fleet of unequal devices running it together out."""

__version__ = "0.1.0"
