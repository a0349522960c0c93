"""Run Mixture-of-Experts models fast and reliably on one consumer GPU."""

__version__ = "0.1.0"
