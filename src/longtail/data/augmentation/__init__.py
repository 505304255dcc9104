"""Augmentation on the device, each image with parameters of its own; images are not mixed here."""

from longtail.data.augmentation.draws import Draws
from longtail.data.augmentation.policies import POLICIES, Policy, find_policy, normalise

__all__ = ["POLICIES", "Draws", "Policy", "find_policy", "normalise"]
