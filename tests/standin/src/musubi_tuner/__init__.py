"""A stand-in for musubi-tuner 0.3.4's command lines: refuses what upstream refuses, trains nothing.

Written from upstream's documented behaviour; it holds none of its code.
"""
