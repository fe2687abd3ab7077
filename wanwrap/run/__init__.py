"""A plan carried out: its DiTs made, its caches filled, each expert trained from where it stands, with a record, a log
and a lock of its own.

Others use `run` (carry_out), `folders`, `record`, `status`, `training` (Stopped), `attempt` (is_lost), `parallel` and
`comfyui`.
"""
