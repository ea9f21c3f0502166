"""The rollout benchmark: its FLOPs against torch's own count, its bytes against what is allocated; never its times."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench_rollout import GEOMETRIES, main
from benchmarks.flops import chunk_flops, pass_flops
from benchmarks.rows import FAMILY, REFERENCES, Row, all_rows, synthetic_profile
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.kv.attention import reference
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan, KVShape
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run, kv_shape
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.stepcache import StepCache
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.noise import SeededNoise
from dummyforcing_core.policies import DummyForcing, SlidingWindow
from dummyforcing_core.policies.base import Setting
from dummyforcing_core.prompts import PromptSchedule

TINY = WanConfig(32, 48, num_heads=2, num_layers=3, text_dim=8, text_len=5, freq_dim=16)
WORDS = ["--geometry", "tiny,dim=32,ffn_dim=48,num_heads=2,num_layers=4", "--size", "32x32", "--long-chunks", "2"]


def measured(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, dict]:
    """Exit status, all that was printed, and the document in its last line."""
    code = main([*WORDS, *words])
    out = capsys.readouterr().out
    return code, out, json.loads(out.splitlines()[-1])


def plan_of(config: WanConfig, row: Row, frames: int = 99) -> HeadPlan:
    return row.policy.plan(Setting(config.num_layers, config.num_heads, FAMILY, FAMILY.chunk_frames, frames))


@pytest.mark.parametrize("skip", [(), (2,), (1, 3)])
@pytest.mark.parametrize("policy", [SlidingWindow(6, 1), DummyForcing(0.5, profile=synthetic_profile(3, 2, 0))])
def test_flops_of_a_chunk_are_what_torch_counts(policy, skip):
    torch.manual_seed(0)
    shape = LatentShape(2, 16, 9, 4, 6)
    denoiser = WanDenoiser(CausalWan(TINY))
    clip = rollout(
        Run(
            denoiser,
            shape,
            FAMILY.schedule,
            PromptSchedule.constant(torch.randn(1, 5, 8)),
            policy,
            FAMILY,
            SeededNoise(0, shape, 3),
            attend=reference,  # two plain products, which torch's counter knows
            steps=StepCache.explicit(skip, FAMILY.schedule),
        )
    )
    next(clip)  # text, time embeddings
    for chunk in (1, 2):
        with FlopCounterMode(display=False) as counter:
            plan = next(clip).plan
        expected = chunk_flops(TINY, plan, kv_shape(denoiser.geometry, shape, FAMILY), 3 * chunk, 4, len(skip))
        assert counter.get_total_flops() == expected.total


def test_flops_of_wan_at_480p():
    """Wan 1.3B, 832x480, TFLOP of one pass: 30 layers of 12 heads of 128, 4,680 queries, 1,560 tokens per frame."""
    config = GEOMETRIES["1.3B"]
    shape = KVShape(1, 30, 52, config.head_dim, 2, 99, 3)
    rows = {row.name: row for row in all_rows(config, (), 0)}
    for name, tera in {"dense 21": 28.3, "window 12": 16.2, "dummy 50": 6.06, "dense 60+3": 84.8}.items():
        plan = plan_of(config, rows[name])
        flops = pass_flops(config, plan, shape, 90)
        assert flops.self_attention == plan.attention_flops(shape, 90)
        assert flops.self_attention / 1e12 == pytest.approx(tera, rel=0.005)
        assert flops.linear / 1e12 == pytest.approx(11.70, abs=0.005)
        assert flops.cross_attention / 1e12 == pytest.approx(0.44, abs=0.005)


def test_the_synthetic_profile_has_exact_counts():
    config = GEOMETRIES["1.3B"]
    rows = {row.name: row for row in all_rows(config, (), 0)}
    for name, counts in {
        "dummy 25": (90, 135, 135),
        "dummy 50": (180, 90, 90),
        "dummy 50 lc 20": (180, 90, 90),
    }.items():
        roles = [role for roles in plan_of(config, rows[name]).roles for role in roles]
        assert tuple(roles.count(role) for role in ("dummy", "sink", "neighbour")) == counts
    neighbour = HeadMemory(0, 60)
    assert sum(row.count(neighbour) for row in plan_of(config, rows["dummy 50 lc 20"]).memories) == 90


def test_every_row_end_to_end(capsys, tmp_path):
    code, out, document = measured(capsys, "--save", str(tmp_path), "--rounds", "2")
    assert code == 0 and document["proof"] is None
    about, rows = document["conditions"], {row["row"]: row for row in document["rows"]}
    assert about["tokens_per_frame"] == 4 and about["dtype"] == "float32" and about["threads"] == 1
    assert len(rows) == 14 and all(f"\n{name} " in out for name in rows)
    frame = 2 * 4 * 16 * 4  # bytes of K and V of one frame of one head: tokens, head_dim, float32
    means = {
        "dense 21": 18,
        "window 12": 9,
        "dummy 25": 1.75,
        "dummy 50": 1.5,
        "dense 60+3": 60,
        "dummy 50 lc 20": 15.75,
    }
    for name, mean in means.items():
        assert rows[name]["cached_frames"]["mean"] == mean
        assert rows[name]["bytes"]["history"]["actual"] == 8 * mean * frame
        assert rows[name]["bytes"]["resident"]["actual"] == 8 * (mean + 3) * frame
    assert rows["dummy 50 lc 20"]["context_ratio"] == 15.75 / 66
    for name, row in rows.items():
        for kind in ("history", "resident", "peak"):
            assert row["bytes"][kind]["predicted"] == row["bytes"][kind]["actual"]
        assert row["bytes"]["device_peak"] is None  # a GPU's
        assert len(row["chunk_ms"]) == (3 if row["group"] == "long" else 10)
        assert row["skipped_steps"] == ([2] if "TeaCache" in name else [])
        assert set(row["against"]) == set(REFERENCES[row["group"]]) - {name}
        assert row["flops"]["total"] > row["flops"]["self_attention"] > 0
    assert rows["dense 21"]["steady_chunks"] == [7, 8, 9] and rows["dummy 50"]["steady_chunks"] == [*range(2, 10)]
    online = rows["dummy 50 online"]["bytes"]
    assert online["peak"]["actual"] > online["resident"]["actual"]  # every head was wide before it was classified
    dense, cached = rows["dense 21"]["flops"], rows["dense 21 + TeaCache"]["flops"]
    layers = 4 * 4 + 3  # four passes of four layers, and three of the clean one
    assert cached["self_attention"] * layers == dense["self_attention"] * (layers - 4)
    assert {"clean pass", "exact scores", "head programming", "repack"} < set(document["classification_ms"])
    (path,) = tmp_path.iterdir()
    assert path.name.startswith(about["date"]) and json.loads(path.read_text(encoding="utf-8")) == document


def test_long_clips_show_whether_their_cost_is_flat(capsys):
    _, _, document = measured(capsys, "--chunks", "20", "--rounds", "1", "--rows", "dummy 50")
    assert document["rows"][0]["late_over_chunk_10"] > 0


def test_the_proof_needs_a_load_that_shows_it(capsys):
    """Too few tokens per frame: it fails, whatever the times."""
    code, out, document = measured(capsys, "--proof", "--size", "32x32", "--rounds", "1")
    proof = document["proof"]
    assert code == 1 and proof["passed"] is False and "Proof" in out
    assert proof["tokens_per_frame"] == {"wanted": 1024, "actual": 4}
    assert set(proof["of_expected_speedup"]) == {"wanted", "dummy 25", "dummy 50"}
    assert [row["row"] for row in document["rows"]] == ["dense 21", "dummy 25", "dummy 50"]


def test_the_proof_s_load_is_mostly_attention():
    config = GEOMETRIES["tiny"]
    shape = KVShape(1, 32, 32, config.head_dim, 4, 99, 3)
    dense = next(row for row in all_rows(config, (), 0) if row.name == "dense 21")
    assert chunk_flops(config, plan_of(config, dense), shape, 90, 4).attention_share > 0.8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rows", "dense 21,nonsense"], "unknown rows nonsense; known: dense 21"),
        (["--rows", "dense 21", "--chunks", "5"], "no steady chunk"),
        (["--size", "30x32"], "multiples of 16"),
        (["--attention", "fast"], "unknown attention backend"),
        (["--skip-steps", "0"], "expected steps to skip from 1 to 3, got 0"),
    ],
)
def test_bad_input_ends_in_one_line(capsys, words, message):
    assert main([*WORDS, "--rounds", "1", *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *((["--geometry", text], "geometry") for text in ("2B", "tiny,dim=33", "tiny,dim", "tiny,size=3")),
        (["--rounds", "0"], "--rounds"),
        (["--skip-steps", "two"], "--skip-steps"),
        (["--proof", "--rows", "dummy 50"], "leave --rows out"),
    ],
)
def test_a_bad_option_is_named(capsys, words, message):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_rows_without_skipped_steps_have_no_teacache():
    assert not any(row.skip for row in all_rows(TINY, (), 0))
