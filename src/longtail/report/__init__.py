"""Figures and pages for people; every number in them was computed elsewhere."""
