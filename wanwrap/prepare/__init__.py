"""Raw pictures and clips made into a data set.

Others use `prepare`, `making`, `clip` and `caption_text`.
"""
