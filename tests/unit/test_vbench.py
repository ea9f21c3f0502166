"""VBench's protocol: names, seeds, shares of ranks, and the folder that clips are sampled into."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dummyforcing_core.errors import DummyForcingError, OutputError
from dummyforcing_core.evaluation.vbench import Sample, Shard, pair_up
from dummyforcing_core.evaluation.vbench_folder import ClipFolder

# Two real prompts of VBench's list, and the names its README and its evaluation give them.
STYLE = "A beautiful coastal beach in spring, waves lapping on sand by Hokusai, in the style of Ukiyo"
HOUSE = "A 3D model of a 1800s victorian house."
CONDITIONS = {"size": "16x16", "seed": 0, "policy": "Full()"}
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


def suite_of(count: int) -> dict[str, str]:
    return {f"prompt {i}": f"text {i}" for i in range(count)}


class TestNames:
    @pytest.mark.parametrize(
        ("prompt", "index", "name"),
        [
            (HOUSE, 0, "A 3D model of a 1800s victorian house.-0.mp4"),
            (STYLE, 4, STYLE + "-4.mp4"),
            ("carved façades", 24, "carved façades-24.mp4"),
            ("a man-2", 0, "a man-2-0.mp4"),
        ],
    )
    def test_official_form(self, prompt: str, index: int, name: str) -> None:
        assert Sample(prompt, "whatever is sampled", index).file_name == name

    def test_the_extended_text_is_sampled_under_the_original_name(self) -> None:
        assert pair_up(["a", "b"], ["long a", "long b"], 5) == {"a": "long a", "b": "long b"}
        assert pair_up(["a", "b"], None, 5) == {"a": "a", "b": "b"}

    def test_a_prompt_that_comes_again_is_sampled_once_and_shifts_nothing(self) -> None:
        assert pair_up(["a", "b", "a", "c"], ["1", "2", "3", "4"], 5) == {"a": "1", "b": "2", "c": "4"}

    @pytest.mark.parametrize("extended", [["1"], ["1", "2", "3"], []])
    def test_lists_of_unequal_length(self, extended: list[str]) -> None:
        with pytest.raises(DummyForcingError, match=f"as many extended prompts as prompts, 2, got {len(extended)}"):
            pair_up(["a", "b"], extended, 5)

    @pytest.mark.parametrize("bad", ["either/or", "/", "nul\0", "a\tb", "bell\a"])
    def test_prompts_that_no_file_can_be_called(self, bad: str) -> None:
        with pytest.raises(OutputError, match="prompt 2 holds"):
            pair_up(["good", bad], None, 5)

    def test_the_extended_text_may_hold_anything(self) -> None:
        assert pair_up(["a"], ["either/or " * 100], 5) == {"a": "either/or " * 100}

    @pytest.mark.parametrize(("letter", "samples"), [("x", 10), ("é", 10), ("x", 11), ("x", 101)])
    def test_names_of_255_bytes_and_one_more(self, letter: str, samples: int) -> None:
        ending = len(f"-{samples - 1}.mp4")
        width = len(letter.encode())
        longest = letter * ((255 - ending) // width) + "x" * ((255 - ending) % width)
        assert pair_up([longest], None, samples)
        with pytest.raises(OutputError, match="256 bytes"):
            pair_up([longest + "x"], None, samples)


class TestSeeds:
    def test_they_never_change(self) -> None:
        """Clips of a released version must be made again by every later one."""
        assert [Sample(HOUSE, HOUSE, i).seed(0) for i in range(3)] == [1390412927, 4163597862, 4089919442]

    def test_the_rule_that_the_manifest_states(self) -> None:
        import hashlib

        digest = hashlib.sha256("façade".encode()).digest()
        words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
        base = 5 * 2**32 + 7
        state = np.random.SeedSequence([7, 5, *words, 3]).generate_state(1)
        assert Sample("façade", "other", 3).seed(base) == int(state[0])

    def test_all_of_a_full_run_differ(self) -> None:
        seeds = {
            Sample(f"prompt {i}", "", j).seed(base) for i in range(944) for j in range(5) for base in (0, 1, 2**32)
        }
        assert len(seeds) > 944 * 5 * 3 - 3  # of 2^32 seeds, 14,160 draws collide 0.02 times

    def test_the_sampled_text_and_the_spelling(self) -> None:
        assert Sample("a", "long", 0).seed(0) == Sample("a", "longer", 0).seed(0)
        assert Sample("a", "", 0).seed(0) != Sample("A", "", 0).seed(0)
        composed, apart = (unicodedata.normalize(form, "façade") for form in ("NFC", "NFD"))
        assert Sample(composed, "", 0).seed(0) != Sample(apart, "", 0).seed(0)

    @pytest.mark.parametrize("base", [-1, 0, 2**32 - 1, 2**64 - 1, 2**80])
    def test_any_whole_number_is_a_base(self, base: int) -> None:
        assert 0 <= Sample("a", "a", 0).seed(base) < 2**32


class TestShard:
    def test_nobody_started_us(self) -> None:
        assert Shard.from_environment({"PATH": "/bin", "LOCAL_RANK": "3"}) == Shard(0, 1, 0, 1)

    def test_what_torchrun_says(self) -> None:
        env = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
        assert Shard.from_environment(env) == Shard(5, 8, 1, 4)

    @pytest.mark.parametrize(
        "change",
        [
            {"RANK": "1"},
            {"RANK": "-1"},
            {"RANK": "x"},
            {"WORLD_SIZE": "0"},
            {"WORLD_SIZE": ""},
            {"LOCAL_RANK": "1"},
            {"LOCAL_RANK": "-1"},
            {"LOCAL_WORLD_SIZE": "2"},
        ],
    )
    def test_what_cannot_be(self, change: dict[str, str]) -> None:
        with pytest.raises(DummyForcingError, match="expected RANK, WORLD_SIZE and LOCAL_RANK of torchrun, got"):
            Shard.from_environment(ALONE | change)

    @given(st.integers(0, 40), st.integers(1, 12))
    def test_no_clash_no_gap(self, count: int, world: int) -> None:
        suite = suite_of(count)
        parts = [Shard(rank, world).part(suite) for rank in range(world)]
        assert sum(map(len, parts)) == count
        assert {k: v for part in parts for k, v in part.items()} == suite
        assert max(map(len, parts)) - min(map(len, parts)) <= 1

    @pytest.mark.parametrize(
        ("shard", "asked", "count", "index"),
        [
            (Shard(), None, 4, None),
            (Shard(), 3, 4, 3),
            (Shard(3, 8, 3, 4), None, 4, 3),
            (Shard(7, 8, 0, 1), None, 1, None),  # one process per machine
            (Shard(7, 8, 0, 1), 2, 4, 2),
        ],
    )
    def test_device_of_a_process(self, shard: Shard, asked: int | None, count: int, index: int | None) -> None:
        assert shard.device_index("cuda", asked, count) == index

    @pytest.mark.parametrize(
        ("asked", "count", "words"),
        [
            (0, 4, "each of 2 processes, got --device cuda:0"),
            (None, 1, "at most 1 processes for 1 cuda devices, got 2"),
        ],
    )
    def test_devices_that_do_not_reach(self, asked: int | None, count: int, words: str) -> None:
        with pytest.raises(DummyForcingError, match=words):
            Shard(0, 2, 0, 2).device_index("cuda", asked, count)


@pytest.fixture
def folder(tmp_path) -> ClipFolder:
    folder = ClipFolder(tmp_path / "new" / "run")
    folder.make()
    return folder


def record(folder: ClipFolder, suite: dict[str, str], samples: int = 2, **changes) -> dict:
    seeds = {p: [Sample(p, t, i).seed(0) for i in range(samples)] for p, t in suite.items()}
    folder.record(CONDITIONS | changes, {"device": "this"}, suite, seeds.__getitem__)
    return json.loads(folder.manifest.read_text(encoding="utf-8"))


class TestFolder:
    def test_missing_looks_at_finished_names_only(self, folder: ClipFolder) -> None:
        samples, found = [Sample("a", "a", i) for i in range(3)], []
        (folder.videos / "a-1.mp4").touch()
        (folder.videos / "a-2.part.mp4").touch()
        folder.working_file(samples[0]).touch()
        assert [s.index for s in folder.missing(samples, found.append)] == [0, 2]
        assert found == [folder.videos / "a-1.mp4"]

    def test_every_writer_has_a_file_of_its_own(self, folder: ClipFolder) -> None:
        sample = Sample("x" * 250, "", 0)
        first, second = folder.working_file(sample), folder.working_file(sample)
        assert first != second
        assert len(first.name) < 100
        assert first.parent == folder.unfinished
        first.write_bytes(b"whole")
        assert folder.finish(first, Sample("short", "", 7)).read_bytes() == b"whole"
        assert [p.name for p in folder.videos.iterdir()] == ["short-7.mp4"]
        assert list(folder.unfinished.iterdir()) == []

    def test_only_leftovers_of_ones_own_prompts_are_dropped(self, folder: ClipFolder) -> None:
        mine, other = (folder.working_file(Sample(p, p, 0)) for p in ("mine", "other"))
        for path in (mine, mine.with_name(f"{mine.stem}.part.mp4"), other):
            path.touch()
        folder.clear_unfinished(["mine", "absent"])
        assert list(folder.unfinished.iterdir()) == [other]
        folder.tidy()
        assert other.exists()

    def test_the_manifest_is_written_once(self, folder: ClipFolder) -> None:
        suite = suite_of(2)
        first = record(folder, suite)
        assert first["conditions"] == CONDITIONS
        assert first["prompts"]["prompt 1"] == {
            "text": "text 1",
            "seeds": [Sample("prompt 1", "", i).seed(0) for i in (0, 1)],
        }
        before = folder.manifest.stat().st_mtime_ns, folder.manifest.stat().st_ino
        folder.record(CONDITIONS, {"device": "another"}, suite, lambda p: first["prompts"][p]["seeds"])
        assert (folder.manifest.stat().st_mtime_ns, folder.manifest.stat().st_ino) == before

    def test_more_prompts_and_samples_are_added(self, folder: ClipFolder) -> None:
        record(folder, {"a": "a", "b": "b"}, samples=5)
        found = record(folder, {"b": "b", "c": "c"}, samples=25)
        assert {p: len(e["seeds"]) for p, e in found["prompts"].items()} == {"a": 5, "b": 25, "c": 25}
        again = record(folder, {"b": "b"}, samples=2)
        assert again == found

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"size": "32x16"}, "expected size 16x16.*got size 32x16"),
            ({"policy": "DummyForcing()"}, r"expected policy Full\(\).*got policy DummyForcing"),
            ({"seed": 1}, "expected seed 0.*got seed 1"),
        ],
    )
    def test_other_conditions(self, folder: ClipFolder, changes: dict, words: str) -> None:
        kept = record(folder, suite_of(1))
        with pytest.raises(OutputError, match=words):
            record(folder, suite_of(2), **changes)
        assert json.loads(folder.manifest.read_text(encoding="utf-8")) == kept

    def test_some_conditions_are_known_before_others(self, folder: ClipFolder) -> None:
        record(folder, suite_of(1))
        folder.check({"size": "16x16"}, {})
        folder.check({"size": "16x16", "of a later version": 1}, {})
        with pytest.raises(OutputError, match="got size"):
            folder.check({"size": "8x8"}, {})

    def test_another_extended_text(self, folder: ClipFolder) -> None:
        record(folder, {"a": "long a"})
        with pytest.raises(OutputError, match=r"sampled as 'long a'.*got 'longer a'"):
            folder.check(CONDITIONS, {"a": "longer a"})
        folder.check(CONDITIONS, {"b": "anything"})

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", "7", '{"format": "dummyforcing.vbench", "version": 2}', "\ufeff{"]
    )
    def test_a_damaged_manifest(self, folder: ClipFolder, text: str) -> None:
        folder.manifest.write_text(text, encoding="utf-8")
        with pytest.raises(OutputError, match="no manifest of this version"):
            folder.check({}, {})

    def test_a_disk_that_ignores_case(self, folder: ClipFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        import os
        from pathlib import Path

        real = os.path.exists(str(folder.path).upper()) and not str(folder.path).isupper()
        assert folder.ignores_case() == real
        monkeypatch.setattr(Path, "exists", lambda self: True)
        assert folder.ignores_case()
        monkeypatch.undo()
        assert list(folder.unfinished.iterdir()) == []

    def test_a_folder_under_a_file(self, tmp_path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match="cannot make the folder"):
            ClipFolder(tmp_path / "file" / "run").make()
