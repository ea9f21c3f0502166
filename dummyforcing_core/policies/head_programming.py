"""Dynamic head programming: which heads become dummies, and what the others keep (arXiv 2601.20499, section 3.2)."""

import torch
from torch import Tensor

from ..errors import PlanError

ROLES = ("sink", "neighbour", "dummy")
SINK, NEIGHBOUR, DUMMY = range(3)


def dummy_cost(mass: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What each head loses as a dummy, and its normalised sink and neighbour shares; each (layers, heads).

    mass (layers, heads, 3) is sink, neighbour, current. Shares are normalised over all heads of the model.
    """
    sink, neighbour = (m / m.sum().clamp_min(torch.finfo(m.dtype).tiny) for m in mass[..., :2].unbind(-1))
    return torch.maximum(sink, neighbour), sink, neighbour


def assign_roles(mass: Tensor, num_dummy: int) -> list[list[int]]:
    """The role (index into ROLES) of every layer and head.

    The `num_dummy` heads of lowest cost, over the whole model, are dummies: with a fixed number of them this greedy
    choice keeps the most mass. Equal costs go to the lower layer, then the lower head. Of the rest, a head whose sink
    share is below its neighbour share is a neighbour head, else a sink head.
    """
    cost, sink, neighbour = dummy_cost(mass)
    return _assigned(cost, torch.where(sink < neighbour, NEIGHBOUR, SINK), num_dummy)


def roles_by_change(sink: Tensor, neighbour: Tensor, dummy: Tensor, num_dummy: int) -> list[list[int]]:
    """The same by output change instead of mass: what each head, (layers, heads), loses in each role.

    The `num_dummy` heads that lose least by being dummies rather than the better of the other two are; the rest get the
    role in which they lose less.
    """
    return _assigned(dummy - torch.minimum(sink, neighbour), torch.where(neighbour < sink, NEIGHBOUR, SINK), num_dummy)


def _assigned(cost: Tensor, otherwise: Tensor, num_dummy: int) -> list[list[int]]:
    layers, heads = cost.shape
    if not 0 <= num_dummy <= layers * heads:
        raise PlanError(f"expected 0 to {layers * heads} dummy heads, as many as there are, got {num_dummy}; use fewer")
    roles = otherwise.flatten()
    roles[cost.flatten().sort(stable=True).indices[:num_dummy]] = DUMMY
    return roles.view(layers, heads).tolist()
