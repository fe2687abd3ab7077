"""The same run on another machine: one readable file for an engine that the user has, and the commands that use it.

Others use `job` (Job, Rendered), `engines`, `launch` and `fetch`.
"""
