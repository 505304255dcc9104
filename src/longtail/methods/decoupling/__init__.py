"""Decoupling representation and classifier (Kang et al., ICLR 2020), in three files.

method.py        the method: a representation, then one of five classifiers on it
classifiers.py   the five classifiers: joint, cRT, LWS, tau-normalised and class means (section 4)
options.py       what can be chosen of both
"""

from longtail.methods.decoupling.method import Decoupling
from longtail.methods.decoupling.options import (
    DecouplingOptions,
    JointOptions,
    MeansOptions,
    RepresentationOptions,
    RetrainingOptions,
    ScalingOptions,
    Stage2Options,
    TauOptions,
)

__all__ = [
    "Decoupling",
    "DecouplingOptions",
    "JointOptions",
    "MeansOptions",
    "RepresentationOptions",
    "RetrainingOptions",
    "ScalingOptions",
    "Stage2Options",
    "TauOptions",
]
