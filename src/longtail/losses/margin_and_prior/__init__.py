"""Losses that shift logits or targets by class counts: priors, margins, clouds; weights are not here."""
