"""Structured pruning of any JAX function: dependency groups, exact targets, smaller leaves.

groups = structure.find_groups(fn, params, *inputs)
plan = structure.plan(groups, params, target=structure.Params(0.5))
small = structure.slice(params, plan)
"""

from tsjax.structure.activations import activation
from tsjax.structure.compaction import compact
from tsjax.structure.equations import Equation, Reason
from tsjax.structure.groups import Group, Groups, Member, find_groups
from tsjax.structure.importance import Importance, fisher, l1, l2, norm, random, taylor
from tsjax.structure.planning import Plan, plan, rounds
from tsjax.structure.primitives import rule
from tsjax.structure.slicing import scatter, slice, zero  # noqa: A004
from tsjax.structure.targets import Flops, Latency, Params, Target

__all__ = [
    "Equation",
    "Flops",
    "Group",
    "Groups",
    "Importance",
    "Latency",
    "Member",
    "Params",
    "Plan",
    "Reason",
    "Target",
    "activation",
    "compact",
    "find_groups",
    "fisher",
    "l1",
    "l2",
    "norm",
    "plan",
    "random",
    "rounds",
    "rule",
    "scatter",
    "slice",
    "taylor",
    "zero",
]
