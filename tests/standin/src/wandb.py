import os

if os.environ.get("STANDIN_LACKS") == "wandb":
    raise ImportError("No wandb")
