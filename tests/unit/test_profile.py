"""Head profile files: round trip, damage, other versions, other checkpoints."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dummyforcing_core.errors import OutputError, PlanError
from dummyforcing_core.kv.output_change import OutputChange, memory_options
from dummyforcing_core.kv.scoring import HeadScores
from dummyforcing_core.policies.head_programming import NEIGHBOUR, SINK, assign_roles
from dummyforcing_core.policies.profile import FORMAT, VERSION, HeadProfile

ROLES = [["sink", "dummy"], ["neighbour", "dummy"], ["dummy", "sink"]]


def scores(layers: int = 3, heads: int = 2) -> HeadScores:
    return HeadScores(torch.rand(layers, heads, 3, generator=torch.Generator().manual_seed(0)).softmax(-1))


def changes(layers: int = 3, heads: int = 2) -> OutputChange:
    options = memory_options(3)
    numbers: Tensor = torch.rand(layers, heads, len(options), generator=torch.Generator().manual_seed(1))
    return OutputChange(options, numbers)


@pytest.fixture
def profile() -> HeadProfile:
    return HeadProfile(scores(), "demo", "abc123", {"prompts": 2, "note": "Grüße"}, changes())


@pytest.fixture
def path(profile: HeadProfile, tmp_path: Path) -> Path:
    profile.write(tmp_path / "p.json", ROLES)
    return tmp_path / "p.json"


def test_a_profile_comes_back_as_it_was(profile: HeadProfile, path: Path) -> None:
    read = HeadProfile.read(path)
    torch.testing.assert_close(read.scores.mass, profile.scores.mass, rtol=0, atol=1e-7)
    assert read.scores.mass.dtype == torch.float32
    assert (read.family, read.fingerprint, read.conditions) == ("demo", "abc123", profile.conditions)
    assert read.changes.options == profile.changes.options
    torch.testing.assert_close(read.changes.change, profile.changes.change, rtol=0, atol=1e-7)
    torch.testing.assert_close(read.changes.far, profile.changes.change[..., 2], rtol=0, atol=1e-7)
    read.write(path, ROLES)
    assert torch.equal(HeadProfile.read(path).scores.mass, read.scores.mass)


def test_the_file_says_what_it_is(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    assert (document["format"], document["version"]) == (FORMAT, VERSION) == ("dummyforcing.head_profile", 2)
    assert (document["layers"], document["heads"], document["family"]) == (3, 2, "demo")
    assert document["fingerprint"] == "abc123"
    assert document["regions"] == ["sink", "neighbour", "current"]
    assert document["roles"] == ROLES
    assert torch.tensor(document["scores"]).shape == (3, 2, 3)


def test_a_file_of_version_1_is_read_and_says_what_it_lacks(profile: HeadProfile, path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["output_change"]
    path.write_text(json.dumps({**document, "version": 1}), encoding="utf-8")
    read = HeadProfile.read(path)
    assert read.changes is None
    assert repr(read).endswith(", no output change)")
    assert "output change" not in repr(profile)
    torch.testing.assert_close(read.scores.mass, profile.scores.mass, rtol=0, atol=1e-7)
    assert read.digest != profile.digest


def test_conditions_may_be_missing(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["conditions"]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert HeadProfile.read(path).conditions == {}


def remove(name: str):
    return lambda d: d.pop(name)


def put(**values):
    return lambda d: d.update(values)


DAMAGES = {
    "no scores": (remove("scores"), "damaged head profile"),
    "no family": (remove("family"), "damaged head profile"),
    "no fingerprint": (remove("fingerprint"), "damaged head profile"),
    "no layers": (remove("layers"), "damaged head profile"),
    "no format": (remove("format"), "not a head profile"),
    "no version": (remove("version"), "not a head profile"),
    "another format": (put(format="dummyforcing.head_plan"), "'dummyforcing.head_plan', version 2; known"),
    "a later version": (put(version=3), "version 3; known: 'dummyforcing.head_profile', 1 and 2"),
    "changes of other heads": (
        lambda d: d["output_change"].update(change=[[[0] * 5]]),
        "as many layers and heads as the masses",
    ),
    "changes below zero": (lambda d: d["output_change"]["change"][0][0].__setitem__(0, -1), "numbers from 0 up"),
    "changes in words": (lambda d: d["output_change"].update(change="x"), "damaged head profile"),
    "fewer options than changes": (lambda d: d["output_change"]["options"].pop("nothing"), "expected changes"),
    "an option of no frames": (lambda d: d["output_change"]["options"].update(nothing=["a", 0]), "whole numbers"),
    "an option of no numbers": (lambda d: d["output_change"]["options"].update(nothing=[]), "damaged head profile"),
    "an option of three": (
        lambda d: d["output_change"]["options"].update(nothing=[0, 1, "rank"]),
        "damaged head profile",
    ),
    "no option of near frames": (
        lambda d: d["output_change"]["options"].update(x=d["output_change"]["options"].pop("newest chunk")),
        "newest chunk among them",
    ),
    "a version that is no number": (put(version=True), "version True"),
    "options that are a list": (lambda d: d["output_change"].update(options=[1]), "damaged head profile"),
    "changes that are a list": (put(output_change=[1]), "damaged head profile"),
    "a version in words": (put(version="1"), "version '1'"),
    "ragged scores": (put(scores=[[[1, 0, 0]], [[1, 0, 0], [1, 0, 0]]]), "damaged head profile"),
    "words for scores": (put(scores=[[["a", "b", "c"]]]), "damaged head profile"),
    "two masses": (put(scores=[[[0.5, 0.5]] * 2] * 3), "expected scores (layers, heads, 3)"),
    "no head": (put(scores=[]), "expected scores (layers, heads, 3)"),
    "null scores": (put(scores=None), "damaged head profile"),
    "fewer layers than stated": (put(layers=4), "3 layers x 2 heads"),
    "more heads than stated": (put(heads=1), "3 layers x 2 heads"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_files(path: Path, case: str) -> None:
    damage, message = DAMAGES[case]
    document = json.loads(path.read_text(encoding="utf-8"))
    damage(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(PlanError, match=re.escape(message)) as error:
        HeadProfile.read(path)
    assert str(error.value).startswith(f"{path} ")


@pytest.mark.parametrize("mass", [[float("nan")] * 3, [-1.0, 1.0, 1.0], [5.0, 5.0, 5.0]])
def test_scores_that_are_no_masses(path: Path, mass: list[float]) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    document["scores"][0][0] = mass
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(PlanError):
        HeadProfile.read(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b'"text"', b'{"format": "x"}', b"{}"])
def test_files_that_are_no_profiles(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=r"other\.json is not a head profile .*make one with `profile`"):
        HeadProfile.read(path)


def test_every_prefix_of_a_file_is_refused(path: Path) -> None:
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(PlanError):
            HeadProfile.read(path)


@pytest.mark.parametrize("name", ["none/p.json", "."])
def test_a_place_that_cannot_be_written(profile: HeadProfile, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        profile.write(tmp_path / name, ROLES)


@pytest.mark.parametrize(("layers", "heads"), [(2, 2), (3, 3), (2, 3), (30, 12)])
def test_another_geometry_is_refused_and_both_are_named(profile: HeadProfile, layers: int, heads: int) -> None:
    with pytest.raises(PlanError) as error:
        profile.check(layers, heads)
    assert "3 layers x 2 heads" in str(error.value)
    assert f"this model has {layers} x {heads}" in str(error.value)
    profile.check(3, 2)


@pytest.mark.parametrize(
    ("own", "models", "said"),
    [
        ("abc", "abc", None),
        ("abc", "xyz", "taken from checkpoint abc, this is xyz; used all the same"),
        ("", "xyz", "taken from an unknown checkpoint"),
        ("", "", "taken from an unknown checkpoint"),
    ],
)
def test_another_or_an_unknown_checkpoint_is_warned_of(own: str, models: str, said: str | None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        HeadProfile(scores(), fingerprint=own).warn_unless_of(models)
    assert len(caught) == (said is not None)
    assert all(said in str(w.message) for w in caught)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize(("layers", "heads"), [(30, 12), (40, 40), (2, 8)])
def test_an_assumed_profile_has_as_many_sink_as_neighbour_heads(layers: int, heads: int, ratio: float) -> None:
    mass = HeadProfile.assumed(layers, heads).scores.mass
    torch.testing.assert_close(mass.sum(-1), torch.ones(layers, heads))
    assert mass.min() >= 0
    roles = [role for row in assign_roles(mass, round(ratio * layers * heads)) for role in row]
    assert roles.count(SINK) == roles.count(NEIGHBOUR) == (layers * heads - round(ratio * layers * heads)) / 2


def test_profiles_of_one_model_have_names_that_tell_them_apart():
    one = HeadProfile(scores(), "demo", "abc123")
    other = HeadProfile(HeadScores(scores().mass.flip(0)), "demo", "abc123")
    assert str(one) == str(HeadProfile(scores(), "demo", "abc123")) != str(other)
