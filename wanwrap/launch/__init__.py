"""The same run on another machine: one readable file for an engine that the user has, and the commands that use it.

Others use `engines` (ENGINES), `request` and `words`, which make a Job of a plan, `check`, `send` (script, send, look_after,
fetch), `launched`, and `wheel`.
"""
