"""Captions written by upstream's own script.

Others use `request` and `captioning`.
"""
