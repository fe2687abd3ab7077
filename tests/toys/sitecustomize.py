import toy_models  # noqa: F401  in every process that wanwrap starts with this folder on its path
