"""A rehearsal: the plan of a run through the real upstream, with toy weights, in about a minute.

`stage` makes the small plan in wanwrap's own process; `child` and its siblings run in the training Python.
"""
