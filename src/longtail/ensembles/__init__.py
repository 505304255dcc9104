"""Several models as one, averaged, weighted or stacked; not how a method trains its sub-models.

Here are the weights of sub-models as functions of their logits, and every mixture side by side.
`sub_models_of_run` scores the sub-models of one training, `several_runs` makes several runs one ensemble.
Methods that train sub-models are in `methods`.
"""

from longtail.ensembles.mixtures import SubModelLogits, compare_mixtures
from longtail.ensembles.stacking import Stacking, fit_stacking
from longtail.ensembles.weights import (
    Descent,
    group_weights,
    instance_weights,
    learn_group_weights,
    learn_instance_weights,
    simplex_grid,
    unbiased,
    weighted_sum,
)

__all__ = [
    "Descent",
    "Stacking",
    "SubModelLogits",
    "compare_mixtures",
    "fit_stacking",
    "group_weights",
    "instance_weights",
    "learn_group_weights",
    "learn_instance_weights",
    "simplex_grid",
    "unbiased",
    "weighted_sum",
]
