from torch.optim import lr_scheduler  # noqa: F401


class AdamW: ...
