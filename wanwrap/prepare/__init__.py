"""Raw pictures and clips made into a data set.

Others use `prepare`, `make`, `manifest` and `caption_text`.
"""
