"""Captions written by upstream's own script.

Others use `captioning`.
"""
