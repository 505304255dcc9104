"""One paper, one file, or a folder where it needs several; and the table of all. The loop is not here."""

from longtail.methods.ace import ACE
from longtail.methods.balms import BALMS
from longtail.methods.bbn import BBN
from longtail.methods.bcl import BCL
from longtail.methods.cc_sam import CCSAM
from longtail.methods.decoupling import Decoupling
from longtail.methods.do import DO
from longtail.methods.elf import ELF
from longtail.methods.experts import MultiExpert
from longtail.methods.fslwf import FSLwF
from longtail.methods.gcl import GCL
from longtail.methods.glmc import GLMC
from longtail.methods.lfme import LFME
from longtail.methods.mdcs import MDCS
from longtail.methods.method import Method, Setting
from longtail.methods.mislas import MiSLAS
from longtail.methods.ncl import NCL
from longtail.methods.oltr import OLTR
from longtail.methods.paco import PaCo
from longtail.methods.proco import ProCo
from longtail.methods.reslt import ResLT
from longtail.methods.rsg import RSG
from longtail.methods.shike import SHIKE
from longtail.methods.single_head import SingleHead
from longtail.methods.sure import SURE
from longtail.methods.tde import TDE
from longtail.methods.tsc import TSC
from longtail.methods.weight_balancing import WeightBalancing

METHODS: dict[str, type[Method]] = {
    "single-head": SingleHead,
    "decoupling": Decoupling,
    "balms": BALMS,
    "mislas": MiSLAS,
    "gcl": GCL,
    "weight-balancing": WeightBalancing,
    "cc-sam": CCSAM,
    "oltr": OLTR,
    "fslwf": FSLwF,
    "tde": TDE,
    "bbn": BBN,
    "rsg": RSG,
    "elf": ELF,
    "experts": MultiExpert,
    "mdcs": MDCS,
    "ace": ACE,
    "lfme": LFME,
    "ncl": NCL,
    "shike": SHIKE,
    "reslt": ResLT,
    "sure": SURE,
    "glmc": GLMC,
    "paco": PaCo,
    "bcl": BCL,
    "proco": ProCo,
    "tsc": TSC,
    "do": DO,
}

__all__ = ["METHODS", "Method", "Setting"]
