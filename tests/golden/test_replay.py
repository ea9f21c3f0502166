"""replay.py on the recorded cases, and on copies that were spoiled: it must notice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
DATA = HERE / "data"
SHARED = ("weights.json", "weights.safetensors", "text.safetensors")
ROLLING, RESTARTS = "J_rolling_forcing_24f_4x8", "K_causvid_39f_4x8"
RECOMPUTE, SWITCH = "L_krea_24f_4x8", "L_krea_21f_switch_4x8"
TWO_STEPS, GIVEN = "M_causal_forcing_2step_6f_4x8", "M_causal_forcing_i2v_15f_4x8"


def replay(folder: Path) -> tuple[int, dict[str, dict]]:
    """Exit status, and the result line of every case."""
    command = [sys.executable, str(HERE / "replay.py"), str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # tiny tensors: a second thread only waits
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600, env=env)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {line["case"]: line for line in lines}


def made(folder: Path, name: str, source: str, params: dict | None = None, **tensors: torch.Tensor | None) -> None:
    """A recorded case under another name, with other parameters and other tensors; None: that tensor is left out."""
    document = json.loads((DATA / f"{source}.json").read_text(encoding="utf-8"))
    document["params"] |= params or {}
    held = load_file(DATA / f"{source}.safetensors") | tensors
    save_file(
        {n: t.clone(memory_format=torch.contiguous_format) for n, t in held.items() if t is not None},
        folder / f"{name}.safetensors",
    )
    (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    for shared in (*SHARED, document["params"]["noise_file"]):
        shutil.copy(DATA / shared, folder)


def recorded() -> list[str]:
    return sorted(path.stem for path in DATA.glob("[A-Z]_*.safetensors"))


@pytest.fixture(scope="module")
def replayed() -> tuple[int, dict[str, dict]]:
    return replay(DATA)


def test_every_recorded_case_is_reported_and_none_fails(replayed: tuple[int, dict[str, dict]]) -> None:
    code, lines = replayed
    assert sorted(lines) == recorded()
    assert [case for case, line in lines.items() if line["ok"] is False] == []
    assert code == 0


@pytest.mark.parametrize("case", recorded())
def test_cases_replay_within_their_limits(replayed: tuple[int, dict[str, dict]], case: str) -> None:
    line = replayed[1][case]
    assert line["ok"] is True, line
    assert line["max_abs_err"] == max(line["tensors"].values())
    assert line["max_abs_err"] < 2e-4


def test_a_kind_that_is_not_known_is_null_with_a_reason_never_a_pass(tmp_path: Path) -> None:
    for suffix in ("json", "safetensors"):
        shutil.copy(DATA / f"I_constants.{suffix}", tmp_path / f"Z_future.{suffix}")
    code, lines = replay(tmp_path)
    assert code == 0
    line = lines["Z_future"]
    assert line["ok"] is None
    assert line["max_abs_err"] is None
    assert "kind Z" in line["reason"]


def test_the_kinds_of_the_core_are_supported() -> None:
    assert {case[0] for case in recorded()} == set("ABCDEFGHIJKLM")


@pytest.mark.parametrize("case", [case for case in recorded() if case[0] in "ABCJKLM"])
def test_whatever_came_out_of_a_loop_is_compared(replayed: tuple[int, dict[str, dict]], case: str) -> None:
    put_in = {"initial_latent", "rollout_noise", "lerps"}
    assert set(load_file(DATA / f"{case}.safetensors")) - put_in <= set(replayed[1][case]["tensors"])


def test_spoiled_data_fails(tmp_path: Path) -> None:
    source = "A_self_forcing_full_6x10"
    good = load_file(DATA / f"{source}.safetensors")
    latents, flow = good["latents"], good["flow_first_forward"]
    last = torch.zeros_like(latents)
    last[..., -1, -1, -1] = 1e-2
    variants = {
        "A_good": {},
        "A_latents": {"latents": latents + last},
        "A_flow": {"flow_first_forward": flow + 1e-2},
        "A_nan": {"latents": latents * float("nan")},
        "A_short": {"latents": latents[:, :-1]},
        "A_nothing": dict.fromkeys(good) | {"unknown": latents},
    }
    for case, change in variants.items():
        made(tmp_path, case, source, **change)
    code, lines = replay(tmp_path)
    assert code == 1
    assert {case: line["ok"] for case, line in lines.items()} == dict.fromkeys(variants, False) | {"A_good": True}
    assert lines["A_latents"]["tensors"]["latents"] == pytest.approx(1e-2, rel=1e-2)
    assert lines["A_latents"]["tensors"]["flow_first_forward"] < 5e-5
    assert "shape" in lines["A_short"]["error"]
    assert "nothing that could be compared" in lines["A_nothing"]["error"]


MISTAKES = {
    "J_other_levels": (ROLLING, {"shift": 3.0}),
    "J_less_attended": (ROLLING, {"attended_frames": 18}),
    "J_no_sink": (ROLLING, {"sink_size_frames": 0}),
    "K_other_levels": (RESTARTS, {"shift": 5.0}),
    "K_warped": (RESTARTS, {"warp": True}),
    "L_other_levels": (RECOMPUTE, {"shift": 8.0}),
    "L_first_frame_stays": (RECOMPUTE, {"keep_first_frame": True}),
    "L_hard_switch": (SWITCH, {"prompts": [[0, "context_a"], [12, "context_b"]]}),
    "L_late_switch": (SWITCH, {"prompts": [[0, "context_a"], [15, [1]], [18, [3]]]}),
    "M_first_chunk_like_others": (TWO_STEPS, {"denoising_step_list_first_chunk": None}),
    "M_other_noise": (GIVEN, {"noise_offset_frames": 0}),
    "M_other_renoise": (GIVEN, {"renoise_chunk_offset": 0}),
}


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("mistakes")
    for name, (source, params) in MISTAKES.items():
        made(folder, name, source, params)
    code, lines = replay(folder)
    assert code == 1
    return lines


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_replay_with_a_wrong_parameter_is_noticed(mistaken: dict[str, dict], mistake: str) -> None:
    line = mistaken[mistake]
    assert line["ok"] is False
    assert line["tensors"]["latents"] > 2e-3, line  # 40 times the limit


def test_spoiled_starts_and_contexts_are_noticed_where_they_were_recorded(tmp_path: Path) -> None:
    starts = load_file(DATA / f"{RESTARTS}.safetensors")["start_latents"]
    context = load_file(DATA / f"{RECOMPUTE}.safetensors")["context_04"]
    starts[0, 0, 0] = (starts[0, 0, 0] - 0.05) / 0.9  # the latent that was not decoded and encoded again
    context[0, 0] = (context[0, 0] - 0.05) / 0.9
    made(tmp_path, "K_plain", RESTARTS, start_latents=starts)
    made(tmp_path, "L_plain", RECOMPUTE, context_04=context)
    lines = replay(tmp_path)[1]
    for case, name in (("K_plain", "start_latents"), ("L_plain", "context_04")):
        assert lines[case]["ok"] is False
        assert lines[case]["tensors"].pop(name) > 0.1
        assert max(lines[case]["tensors"].values()) < 5e-5


def test_what_a_file_does_not_hold_is_not_compared(tmp_path: Path) -> None:
    rolling = load_file(DATA / f"{ROLLING}.safetensors")["flow_windows"]
    recompute = load_file(DATA / f"{RECOMPUTE}.safetensors")
    contexts = [name for name in recompute if name.startswith("context_")]
    made(tmp_path, "C_flow_only", "C_longlive_switch16_globalsink_8x8", recache0_k_layer1=None, recache0_v_layer1=None)
    made(tmp_path, "D_no_rows", "D_dummy_ar1_lc1_half_8x8", sampled_rows=None)
    made(tmp_path, "J_two_windows", ROLLING, {"flow_windows": [0, 4]}, flow_windows=rolling[:2])
    made(tmp_path, "J_no_window", ROLLING, flow_windows=None)
    made(tmp_path, "K_latents", RESTARTS, start_latents=None, x0_first_step=None)
    made(
        tmp_path, "L_two_chunks", RECOMPUTE, **dict.fromkeys(contexts), flow_first_step=recompute["flow_first_step"][:2]
    )
    made(tmp_path, "L_flows", RECOMPUTE, latents=None)
    made(tmp_path, "M_latents", GIVEN, flow_first_forward=None)
    code, lines = replay(tmp_path)
    assert code == 0
    assert [case for case, line in lines.items() if line["ok"] is not True] == []
    assert sorted(lines["C_flow_only"]["tensors"]) == ["flow_first_forward", "latents", "recache0_flow"]
    assert "frame_attn_score" not in lines["D_no_rows"]["tensors"]
    assert "flow_windows" not in lines["J_no_window"]["tensors"]
    assert sorted(lines["K_latents"]["tensors"]) == sorted(lines["M_latents"]["tensors"]) == ["latents"]
    assert sorted(lines["L_two_chunks"]["tensors"]) == ["denoising_steps", "flow_first_step", "latents"]


def test_a_given_start_may_stand_in_front_of_the_latents_only(tmp_path: Path) -> None:
    """L with a given start: there it is not compared with anything, and what follows is made from it."""
    params = {"given_frames": 3, "noise_offset_frames": 0, "renoise_chunk_offset": 1}
    latents = load_file(DATA / f"{RECOMPUTE}.safetensors")["latents"]
    other = torch.cat((latents[:, :3] + 1, latents[:, 3:]), dim=1)
    for name, start, clip in (
        ("L_same", None, latents),
        ("L_apart", latents[:, :3], latents),
        ("L_other", None, other),
    ):
        made(tmp_path, name, RECOMPUTE, params, flow_first_step=None, initial_latent=start, latents=clip)
    lines = replay(tmp_path)[1]
    errors = {name: line["tensors"]["context_00"] for name, line in lines.items()}
    assert errors["L_same"] == errors["L_apart"] == 0
    assert errors["L_other"] == pytest.approx(1)


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_without_cases_is_no_success(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    code, lines = replay(tmp_path / folder)
    assert code == 2
    assert lines == {}
