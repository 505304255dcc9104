"""One paper, one file; and the table of all methods."""

from longtail.methods.bbn import BBN
from longtail.methods.decoupling import Decoupling
from longtail.methods.do import DO
from longtail.methods.experts import MultiExpert
from longtail.methods.gcl import GCL
from longtail.methods.method import Method, Setting
from longtail.methods.mislas import MiSLAS
from longtail.methods.ncl import NCL
from longtail.methods.paco import PaCo
from longtail.methods.reslt import ResLT
from longtail.methods.single_head import SingleHead
from longtail.methods.tde import TDE
from longtail.methods.weight_balancing import WeightBalancing

METHODS: dict[str, type[Method]] = {
    "single-head": SingleHead,
    "decoupling": Decoupling,
    "mislas": MiSLAS,
    "gcl": GCL,
    "weight-balancing": WeightBalancing,
    "tde": TDE,
    "bbn": BBN,
    "experts": MultiExpert,
    "ncl": NCL,
    "reslt": ResLT,
    "paco": PaCo,
    "do": DO,
}

__all__ = ["METHODS", "Method", "Setting"]
