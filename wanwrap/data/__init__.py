"""A folder or a TOML read as a Dataset, and what of it is cached already.

Others use `folder`, `config`, `dataset`, `media`, `pictures`, `clips`, `check`, `caches` and `cache_lock`.
"""
