"""Weight files: which there are, what one is, where it lies, and how to get it; and `wanwrap.toml`, which remembers
that.

Others use `weight_file`, `catalogue`, `models`, `locate`, `identify`, `search`, `download`, `workspace`, `comfyui`,
`marks`, `lora` and `provenance`.
"""
