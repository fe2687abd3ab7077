"""All that is known of musubi-tuner 0.3.4, each fact once with its source; when the pin moves, this room changes and
no other.

Others use `pin`, `options`, `rules`, `schedule`, `buckets`, `dit`, `memory`, `sampling_memory`, `states` and `output`;
`probe` is run by the training Python.
"""
