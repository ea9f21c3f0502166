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
SHARED = ("weights.json", "weights.safetensors", "text.safetensors", "noise_6x10.safetensors")


def replay(folder: Path) -> tuple[int, dict[str, dict]]:
    """Exit status, and the result line of every case."""
    command = [sys.executable, str(HERE / "replay.py"), str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # tiny tensors: a second thread only waits
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600, env=env)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {line["case"]: line for line in lines}


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
    assert {case[0] for case in recorded()} == set("ABCDEFGHI")


def test_spoiled_data_fails(tmp_path: Path) -> None:
    for name in SHARED:
        shutil.copy(DATA / name, tmp_path)
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
    }
    for case, change in variants.items():
        save_file({name: t.contiguous() for name, t in (good | change).items()}, tmp_path / f"{case}.safetensors")
        shutil.copy(DATA / f"{source}.json", tmp_path / f"{case}.json")
    code, lines = replay(tmp_path)
    assert code == 1
    assert {case: line["ok"] for case, line in lines.items()} == dict.fromkeys(variants, False) | {"A_good": True}
    assert lines["A_latents"]["tensors"]["latents"] == pytest.approx(1e-2, rel=1e-2)
    assert lines["A_latents"]["tensors"]["flow_first_forward"] < 5e-5
    assert "shape" in lines["A_short"]["error"]


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_without_cases_is_no_success(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    code, lines = replay(tmp_path / folder)
    assert code == 2
    assert lines == {}
