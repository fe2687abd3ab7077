"""Raw pictures and clips made into a data set.

Others use `preparation` (what is asked for), `prepare`, and `manifest` (what was made).
"""
