"""A request's plan: its data set and weights looked at on this machine, then planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wanwrap.paths import absolute, folder
from wanwrap.plan.plan import Plan
from wanwrap.plan.planner import make_plan
from wanwrap.plan.request import Request
from wanwrap.weights.locate import locate

if TYPE_CHECKING:
    from wanwrap.data.dataset import Dataset

SAMPLE = "sample"


def build(request: Request, *, whole: bool = False) -> Plan:
    """The plan; `whole` decodes each file of the data set. Raises the errors of all that it is made of."""
    return planned(request, look(request, whole=whole))


def planned(request: Request, dataset: Dataset) -> Plan:
    """The plan on a data set that was looked at, fitted to the card. Raises the errors of all that it is made of."""
    data = dataset.sound(skip_bad=request.skip_bad)
    models, recorded = request.base_dir / "models", request.workspace.weights
    weights = {name: locate(name, models, request.files.get(name), recorded.get(name)) for name in request.needed}
    plan = make_plan(request, data, weights)
    if request.fit == "auto" or request.vram:
        from wanwrap.plan import card, fit

        found = card.described(request.vram, request.shell) if request.vram else card.here(request.gpus)
        plan = fit.fitted(plan, found)
    if "network_weights" not in request.given:
        return plan
    from wanwrap.plan import warm_start  # a dry run waits for no more than it needs

    return replace(plan, notes=(*plan.notes, *warm_start.remarks(plan)))


def look(request: Request, *, whole: bool = False) -> Dataset:
    """The data set as it is. Raises DatasetError."""
    if request.dataset_config is not None:
        from wanwrap.data import config

        return config.load(absolute(request.dataset_config), whole=whole)
    from wanwrap.data.folder import find, scan

    datasets = request.base_dir / "datasets"
    shipped = request.dataset == SAMPLE and not (datasets / SAMPLE).is_dir() and not Path(SAMPLE).is_dir()
    place = folder("templates") / SAMPLE if shipped else find(request.dataset, datasets)
    return scan(place, request.preset, whole=whole)
