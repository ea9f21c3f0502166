"""D, F: Dummy Forcing with the reference's scores, and what it saw and kept against the record."""

from dataclasses import dataclass, field

import torch
from engine import Recorder
from recorded import Case
from torch import Tensor
from torch.nn.functional import one_hot

from dummyforcing_core.kv.plan import HeadPlan
from dummyforcing_core.kv.scoring import HeadScores, region_mass
from dummyforcing_core.policies import DummyForcing, Setting
from dummyforcing_core.policies.head_programming import assign_roles


class FrameMass:
    """Softmax mass per frame of K in temporal order, on every query row and on the recorded rows, if there are any."""

    def __init__(self, setting: Setting, rows: Tensor | None):
        self.rows = rows
        self.exact: list[list] = [[None] * setting.heads for _ in range(setting.layers)]
        self.sampled: list[list] = [[None] * setting.heads for _ in range(setting.layers)]

    def __call__(self, layer, heads, q, k, v, regions):
        slots = []
        for region in regions:
            tokens = (region.stop_token - region.start_token) // max(len(region.frames), 1)
            starts = range(region.start_token, region.stop_token, max(tokens, 1))
            slots += [(frame, (start, start + tokens)) for frame, start in zip(region.frames, starts, strict=True)]
        bounds = [bound for _, bound in sorted(slots)]
        for table, chosen in ((self.exact, q), (self.sampled, q if self.rows is None else q[:, self.rows[layer]])):
            for head, mass in zip(heads, region_mass(chosen, k, bounds), strict=True):
                table[layer][head] = mass

    def result(self):
        return self


@dataclass(frozen=True, eq=False)
class ReferenceDummyForcing(DummyForcing):
    """Our policy, but for the scores that it plans from: they are taken as the reference took them.

    Rows. The reference scores a few query rows drawn at random, which were recorded. The product scores every row (or
    every n-th): exact, and the same on every run.
    Regions. The reference cuts K by position: its sink is 1 frame if heads are scored in chunk 1, and a chunk's frames
    if later (ar_start >= 2). Its cache holds 1 sink frame always, so later its "sink" share is that of the sink and the
    oldest neighbour frames. The product asks the cache which frames are sink, neighbour and current, whenever heads are
    scored. At ar_start 1 both cut alike.
    Both together: the product may give other roles than were recorded. Everything that follows from scores (roles,
    plan, memory, passes) is the product's own here. Where no rows were recorded, the recorded roles are taken.
    """

    case: Case | None = None
    seen: dict = field(default_factory=dict)

    def observation(self, setting, project):
        return FrameMass(setting, self.case.recorded.get("sampled_rows"))

    def replan(self, scores, setting) -> HeadPlan:
        self.seen.update(scores=scores)
        mass = self.regions(scores.sampled)
        if scores.rows is None:  # all mass in the region that the role is named for
            mass = one_hot(self.case.recorded["head_class"], mass.shape[-1]).float()
        return super().replan(HeadScores(mass), setting)

    def regions(self, frame_mass: list) -> Tensor:
        """Mass per frame as the reference's regions, (layers, heads, 3)."""
        mass = torch.stack([torch.stack(row) for row in frame_mass])
        chunk = self.case.chunk_frames
        sink = 1 if self.observe_chunk == 1 else chunk
        parts = mass[..., :sink], mass[..., sink:-chunk], mass[..., -chunk:]
        return torch.stack([part.sum(-1) for part in parts], dim=-1)


def reference_policy(case: Case) -> ReferenceDummyForcing:
    params = case.params
    return ReferenceDummyForcing(
        num_dummy=params["num_dummy"],
        local_chunks=params["local_context_length"],
        observe_chunk=params["ar_start"],
        case=case,
    )


def check_heads(case: Case, policy: ReferenceDummyForcing, denoiser: Recorder) -> None:
    """Masses, roles, and what the cache holds after the last chunk."""
    scores = policy.seen["scores"]
    case.check("exact_frame_mass", torch.stack([torch.stack(row) for row in scores.exact]), 5e-6)
    names = [("exact_region_mass", "head_class_from_exact_region_mass", scores.exact)]
    if scores.rows is not None:
        names.append(("frame_attn_score", "head_class", scores.sampled))
    for mass_name, roles_name, frame_mass in names:
        mass = policy.regions(frame_mass)
        case.check(mass_name, mass, 5e-6)
        case.check(roles_name, torch.tensor(assign_roles(mass, policy.num_dummy)), 0)
    _check_final_cache(case, denoiser)


def _check_final_cache(case: Case, denoiser: Recorder) -> None:
    """K and V after the last chunk: sink then dummy heads packed as "sink", neighbour heads as "local"."""
    packed = {"sink": ("sink", "dummy"), "local": ("neighbour",)}
    cache = denoiser.cache
    for name in (n for n in case.recorded if n.startswith("final_")):
        _, part, which, layer = name.split("_")
        index = int(layer.removeprefix("layer"))
        roles = cache.plan.roles[index]
        heads = [h for role in packed[part] for h in range(len(roles)) if roles[h] == role]
        held = [cache.export(index, h)[1 + "kv".index(which)] for h in heads]
        if held or case.recorded[name].numel():  # a group may be empty, in both
            case.check(name, torch.stack(held, dim=2), 5e-5)
