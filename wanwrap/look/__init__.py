"""What there is to see and to show: the contact sheet of a data set, the samples of a run, what of it is published.

Others use `contact_sheet`, `samples` and `publish`.
"""
