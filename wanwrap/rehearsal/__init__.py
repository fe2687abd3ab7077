"""The same plan in small: the real upstream, with toy weights and a handful of items, in a minute and without a GPU.

Others use `stage` (rehearsal, verify).
"""
