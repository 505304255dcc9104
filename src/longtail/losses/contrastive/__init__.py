"""Losses that compare features of images with each other; no queue and no second network, see `models`."""
