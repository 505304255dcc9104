"""Malformed input of every kind: it ends in words, or in a sane result."""
