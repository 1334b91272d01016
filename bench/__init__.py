"""Measurements. `python -m bench` runs them all; each figure is printed with the machine it was taken on."""
