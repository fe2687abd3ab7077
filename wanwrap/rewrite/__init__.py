"""A DiT or a text encoder written anew, tensor by tensor: merged with a LoRA, cast, or under other key names.

Others use `start` (run_merge, run_convert).
"""
