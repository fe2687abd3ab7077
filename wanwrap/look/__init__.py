"""What there is to see and to show: the contact sheet of a data set; the samples of a run, its page, its workflow for
ComfyUI, and what of it is published.

Others use `contact_sheet`, `sample_plan`, `sample_gpu`, `sampling`, `samples`, `report`, `workflow` and `publish`.
"""
