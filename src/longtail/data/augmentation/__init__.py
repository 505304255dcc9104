"""Augmentation on the device, with parameters of its own for every picture of a batch."""

from longtail.data.augmentation.draws import Draws
from longtail.data.augmentation.policies import POLICIES, Policy, find_policy, normalise

__all__ = ["POLICIES", "Draws", "Policy", "find_policy", "normalise"]
