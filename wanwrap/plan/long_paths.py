"""Windows' limit on the length of a path, unless longer ones are switched on there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from wanwrap.data.caches import WHAT, names
from wanwrap.plan.plan import Plan
from wanwrap.system.files import PART
from wanwrap.system.windows import LONGER, long_paths
from wanwrap.upstream import output, states

# Characters of a file's path. A folder's may have 247, which none of ours passes whose files, all with names of 11
# letters or more, don't pass this.
MOST = 259
ATTEMPT = 99  # of a number with as many digits as any has


def too_long(plan: Plan) -> str | None:
    """Why files of a run can't be written, by the one with the longest path; None where all can."""
    if long_paths():
        return None
    longest = max(map(str, _written(plan)), key=len)
    if len(longest) <= MOST:
        return None
    return (
        f"{longest} would have {len(longest)} characters, and Windows takes {MOST}; give a shorter --base_dir or "
        f"--output_name, shorten the names of the data set's files, or switch on long paths, {LONGER}"
    )


def _written(plan: Plan) -> Iterator[Path]:
    """The longest paths of all that a run writes."""
    yield from (step.out.with_name(step.out.name + PART) for step in plan.rewrites)
    for entry in plan.dataset.entries:
        yield from (entry.cache / name for what in WHAT for name, _ in names(entry, what))
    for train in plan.trainings:
        yield train.logs(ATTEMPT) / output.curves_file()
        yield train.attempt_folder(ATTEMPT) / states.longest(train.label)
        if train.options.get("sample_prompts"):
            yield train.attempt_folder(ATTEMPT) / states.sample(train.label)
