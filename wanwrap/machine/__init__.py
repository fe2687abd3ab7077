"""What this machine has and lacks: GPUs, memory, packages and weights, looked at and installed.

Others use `setup`, `doctor`, `request` and `install`.
"""
