"""Forcing-KV's head labels: its files, and hostile ones."""

import json
from pathlib import Path

import pytest

from dummyforcing_core.errors import PlanError
from dummyforcing_core.models.families import get_family
from dummyforcing_core.policies import ForcingKV, Setting
from dummyforcing_core.policies.forcing_kv import HeadLabels

LAYERS = [
    {"layer_idx": 1, "static_head": [], "dynamic_head": [2, 0, 1]},
    {"layer_idx": 0, "static_head": [2], "dynamic_head": [0, 1]},
]
SETTING = Setting(2, 3, get_family("self_forcing"), 3, 21)


def read(folder: Path, text: str) -> HeadLabels:
    (folder / "heads.json").write_text(text)
    return HeadLabels.read(folder / "heads.json")


@pytest.mark.parametrize("wrapped", [False, True])
def test_both_forms_of_the_public_files_are_read(tmp_path: Path, wrapped: bool) -> None:
    labels = read(tmp_path, json.dumps({"num_layers": 2, "layers": LAYERS} if wrapped else LAYERS))
    assert labels == HeadLabels((frozenset({2}), frozenset()), 3)


def test_what_heads_keep(tmp_path: Path) -> None:
    plan = ForcingKV(read(tmp_path, json.dumps(LAYERS))).plan(SETTING)
    assert plan.roles == (("dynamic", "dynamic", "static"), ("dynamic",) * 3)
    assert plan.cached_frames(99) == [10, 10, 2, 10, 10, 10]
    assert plan.bank is not None and plan.bank.room_frames == 6


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "3",
        "[[]]",
        '{"layers": 3}',
        '[{"layer_idx": 1, "static_head": [0], "dynamic_head": [1]}]',
        '[{"layer_idx": 0, "static_head": [0], "dynamic_head": [0]}]',
        '[{"layer_idx": 0, "static_head": [true], "dynamic_head": [0]}]',
        '[{"layer_idx": 0, "static_head": "01", "dynamic_head": [0]}]',
        '[{"layer_idx": 0, "static_head": [], "dynamic_head": []}]',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        read(tmp_path, text)
    assert "heads.json" in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_labels_are_needed_and_of_this_model(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="expected a file of head labels, got none"):
        ForcingKV().plan(SETTING)
    labels = read(tmp_path, json.dumps([LAYERS[1]]))
    with pytest.raises(PlanError, match="of 2 layers x 3 heads, got 1 x 3"):
        ForcingKV(labels).plan(SETTING)
