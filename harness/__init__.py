"""The engine of a scaling study, from study file to results."""

__version__ = "0.1.0"
