"""Judging a document: metric paths, thresholds, the baseline, the configuration. No torch, no terminal."""

from .baseline import Baseline, names_of, read_baseline
from .configuration import Configuration, read_configuration
from .judge import Rules, Verdict, judge, judged, metrics_of
from .thresholds import Threshold

__all__ = [
    "Baseline",
    "Configuration",
    "Rules",
    "Threshold",
    "Verdict",
    "judge",
    "judged",
    "metrics_of",
    "names_of",
    "read_baseline",
    "read_configuration",
]
