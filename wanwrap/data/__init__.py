"""A folder or a TOML read as a Dataset, and what of it is cached already.

Others use `folder`, `config`, `dataset`, `toml`, `media`, `pictures`, `clips`, `probed`, `check`, `trigger`, `caches` and
`cache_lock`.
"""
