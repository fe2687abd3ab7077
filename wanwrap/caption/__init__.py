"""Captions written by upstream's own script.

Others use `request`, `captioning` and `captions`.
"""
