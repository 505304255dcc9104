"""How options are declared and read: their base class and YAML; no option of a part of the library is here.

Those of the data, of a network, of the training and of a run are in the `options.py` of their room.
"""

from longtail.config.choice import Choice
from longtail.config.options import ByName, Options, Place

__all__ = ["ByName", "Choice", "Options", "Place"]
