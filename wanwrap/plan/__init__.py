"""Request, data set and weights made into a Plan, and all that can be known to be wrong with it before anything is
written.

Others use `request`, `build`, `plan`, `preflight`, `script`, `planner` (make_plan), `expert_options`, `card`, `fit`,
`fit_words` and `sampling_fit`.
"""
