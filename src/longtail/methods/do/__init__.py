"""DO: decoupled optimisation for long-tailed visual recognition (AAAI 2024), in the order of its text.

    schedule.py    the method: stages 1..T, each of them CPO, then TPD
    cpo.py         collaborative parameter optimisation: sampling (eq. 1) and loss (eq. 2, 3) of a stage
    tpd.py         decoupling by Taylor importance: what a stage keeps, gradual pruning (eq. 4), gamma
    inference.py   instance-level test-time learning: the mixture of the sub-models (eq. 5)
    options.py     what the text leaves open, in the same order
    figures.py     what the report shows: tables 7 and 9, figure 4

`longtail.models.allotment` holds the weights: one network, of which every weight belongs to one stage.
"""

from longtail.methods.do.options import DOOptions
from longtail.methods.do.schedule import DO

__all__ = ["DO", "DOOptions"]
