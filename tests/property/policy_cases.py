"""What every registered policy brings to the shared matrix (test_policy_matrix.py): variants that differ in kind."""

import torch

from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.policies import DummyForcing, Full, Policy, SlidingWindow, get_policy
from dummyforcing_core.policies.profile import HeadProfile
from tests.property.tiny import HEADS, LAYERS

# Per layer: one head looks at the first frame, one at its neighbours, the others at the current chunk.
SHARES = [[0.6, 0.1, 0.3], [0.1, 0.6, 0.3], [0.02, 0.01, 0.97], [0.01, 0.02, 0.97]]
PROFILE = HeadProfile(HeadScores(torch.tensor([SHARES[:HEADS]] * LAYERS)))

CASES: dict[str, dict[str, Policy]] = {
    # one row per policy: its name, and the variants that differ in kind
    "full": {"": Full()},
    "window": {"own": SlidingWindow(), "narrow": get_policy("window")(window_frames=5, sink_frames=1)},
    "dummy": {
        "online": DummyForcing(),
        "scored again": DummyForcing(reclassify_chunks=2),
        "profile": DummyForcing(profile=PROFILE),
        "bare": DummyForcing(dummy_ratio=1.0, packed_frames=0, profile=PROFILE),
    },
}
