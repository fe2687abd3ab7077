"""A request's plan: its data set and weights looked at, then planned."""

from __future__ import annotations

from dataclasses import replace

from wanwrap.plan.plan import Plan
from wanwrap.plan.planner import make_plan
from wanwrap.plan.request import Request


def build(request: Request, *, whole: bool = False) -> Plan:
    """The plan; `whole` decodes each file of the data set. Raises the errors of all that it is made of."""
    plan = make_plan(request, request.data(whole=whole), request.weights())
    if "network_weights" not in request.given:
        return plan
    from wanwrap.plan import warm_start  # a dry run waits for no more than it needs

    return replace(plan, notes=(*plan.notes, *warm_start.remarks(plan)))
