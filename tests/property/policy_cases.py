"""What every registered policy brings to the shared matrix (test_policy_matrix.py): variants that differ in kind."""

import torch

from dummyforcing_core.kv.output_change import OutputChange, memory_options
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.policies import (
    DummyForcing,
    ForcingKV,
    Full,
    HeadBudget,
    HeadForcing,
    Policy,
    SlidingWindow,
    get_policy,
)
from dummyforcing_core.policies.forcing_kv import HeadLabels
from dummyforcing_core.policies.profile import HeadProfile
from tests.property.tiny import HEADS, LAYERS

# Per layer: one head looks at the first frame, one at its neighbours, the others at the current chunk.
SHARES = [[0.6, 0.1, 0.3], [0.1, 0.6, 0.3], [0.02, 0.01, 0.97], [0.01, 0.02, 0.97]]
# What each of them loses with nothing, the newest frame, the newest chunk, the first frame, first and newest.
LOSSES = [[0.9, 0.8, 0.7, 0.1, 0.05], [0.9, 0.3, 0.0, 0.9, 0.3], [0.1, 0.0, 0.0, 0.1, 0.0], [0.2, 0.1, 0.0, 0.2, 0.1]]
PROFILE = HeadProfile(
    HeadScores(torch.tensor([SHARES[:HEADS]] * LAYERS)),
    changes=OutputChange(memory_options(3), torch.tensor([LOSSES[:HEADS]] * LAYERS)),
)

CASES: dict[str, dict[str, Policy]] = {
    # one row per policy: its name, and the variants that differ in kind
    "full": {"": Full()},
    "window": {
        "own": SlidingWindow(),
        "narrow": get_policy("window")(window_frames=5, sink_frames=1),
        "switches": SlidingWindow(6, 1, switch_frames=1),
    },
    "dummy": {
        "online": DummyForcing(),
        "scored again": DummyForcing(reclassify_chunks=2),
        "profile": DummyForcing(profile=PROFILE),
        "bare": DummyForcing(dummy_ratio=1.0, packed_frames=0, profile=PROFILE),
        "by output change": DummyForcing(cost="output_change"),
    },
    "head_forcing": {
        "online": HeadForcing(num_memory=2),
        "again": HeadForcing(num_memory=2, reclassify_chunks=2, bank_chunks=1),
        "profile, anchors": HeadForcing(0.3, anchor_ratio=0.5, sink_frames=2, profile=PROFILE, novelty=0.0),
        "keys": HeadForcing(0.5, local_frames=1, bank_rule="key_novelty", novelty=0.0, profile=PROFILE),
        "keys, again": HeadForcing(0.5, bank_rule="key_novelty", novelty=0.0, reclassify_chunks=2),
        "every": HeadForcing(0.5, bank_rule="every", every_frames=2, memory_sink=1, profile=PROFILE),
        "by mass": HeadForcing(0.3, roles_by="mass", bank_chunks=0, profile=PROFILE),
    },
    "forcing_kv": {"": ForcingKV(HeadLabels((frozenset({0, 2}), frozenset()), HEADS), kept_frames=2)},
    "head_budget": {"online": HeadBudget(), "profile": HeadBudget(budget_frames=2.5, profile=PROFILE)},
}
