"""The product's family rows against recorded parameters: the replays take a case's parameters, whatever a row says."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dummyforcing_core.models.families import Family, get_family
from dummyforcing_core.prompts import PromptSchedule

DATA = Path(__file__).parent / "data"
PARAMS = {path.stem: json.loads(path.read_text(encoding="utf-8")).get("params", {}) for path in DATA.glob("*.json")}
NAMED = sorted(case for case, params in PARAMS.items() if "family" in params)


def recorded_row(case: str) -> tuple[Family, dict]:
    return get_family(PARAMS[case]["family"]), PARAMS[case]


def of_kind(kind: str) -> list[str]:
    return [case for case in NAMED if case[0] == kind]


def test_every_family_with_a_loop_of_its_own_was_recorded() -> None:
    recorded = {PARAMS[case]["family"] for case in NAMED}
    assert recorded == {
        "causal_forcing", "causal_forcing_framewise", "causal_forcing_2step", "causal_forcing_1step", "longlive",
        "causal_forcing_long", "rolling_forcing", "causvid", "krea_realtime",
    }  # fmt: skip


@pytest.mark.parametrize("case", NAMED)
def test_steps_are_the_recorded_timesteps(case: str) -> None:
    row, params = recorded_row(case)
    given = list(row.schedule.timesteps_of(first=False))
    clean = [0] if case[0] == "K" else []  # there the clean pass is in the list
    assert [*given, *clean] == pytest.approx(params["timesteps"], abs=1e-3)
    assert row.shift == params["shift"]
    assert row.warped is params.get("warp", True)
    assert row.chunk_frames == params["frames_per_block"]
    assert row.first_steps == (tuple(params.get("denoising_step_list_first_chunk") or ()) or None)


@pytest.mark.parametrize("case", of_kind("J"))
def test_rolling_rows(case: str) -> None:
    row, params = recorded_row(case)
    assert (row.loop, row.window_frames, row.sink_frames) == (
        "rolling",
        params["attended_frames"],
        params["frames_per_block"],
    )


@pytest.mark.parametrize("case", of_kind("K"))
def test_restarting_rows(case: str) -> None:
    row, params = recorded_row(case)
    assert (row.loop, row.trained_frames, row.overlap_frames) == (
        "restarts",
        params["frames_per_rollout"],
        params["num_overlap_frames"],
    )


@pytest.mark.parametrize("case", of_kind("L"))
def test_recomputing_rows(case: str) -> None:
    row, params = recorded_row(case)
    assert row.loop == "recompute"
    assert row.window_frames == params["kv_cache_num_frames"] + row.chunk_frames
    assert row.sink_frames == int(params["keep_first_frame"])


@pytest.mark.parametrize("case", [case for case in of_kind("L") if len(PARAMS[case]["prompts"]) > 1])
def test_a_blended_switch_speaks_the_recorded_interpolation(case: str) -> None:
    """The session goes from one text to another in as many steps as there are rows; the first is the old text whole."""
    params, rows = PARAMS[case], load_file(DATA / f"{case}.safetensors")["lerps"]
    (_, first), *later = params["prompts"]
    assert [row for _, (row,) in later] == list(range(1, len(rows)))
    assert {after - before for (before, _), (after, _) in pairwise(later)} == {params["frames_per_block"]}
    text = load_file(DATA / "text.safetensors")
    switch = PromptSchedule(((0, text[first]), (later[0][0], text["context_b"])))
    starts = range(0, params["num_blocks"] * params["frames_per_block"], params["frames_per_block"])
    entries = switch.blended(len(rows) - 2, starts).entries
    assert [start for start, _ in entries] == [0, *(start for start, _ in later)]
    torch.testing.assert_close(torch.cat([spoken for _, spoken in entries]), rows, rtol=0, atol=1e-6)
