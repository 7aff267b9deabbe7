"""Figures, each beside its reference: `python -m bench` runs those of the report."""
