"""Features of frozen backbones, computed once and kept in files; nothing is trained here."""

from longtail.frozen.features import frozen_features
from longtail.frozen.store import FeatureStore

__all__ = ["FeatureStore", "frozen_features"]
