"""Experiment scripts: absl flags in front of the functions of ``tsjax.study``."""
