"""Weight files: which there are, what one is, where it lies, and how to get it; and `wanwrap.toml`, which remembers
that.

Others use `catalogue`, `models`, `locate`, `identify`, `names`, `search`, `download`, `workspace`, `comfyui`,
`marks`, `lora`, `t5`, `provenance` and `record`.
"""
