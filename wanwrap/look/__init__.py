"""Pictures of what there is: the contact sheet of a data set.

Others use `contact_sheet`.
"""
