import os

if os.environ.get("STANDIN_LACKS") == "xformers":
    raise ImportError("built for another torch")
