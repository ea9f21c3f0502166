"""What a model was not made for is told once, and what it was made for is not."""

import pytest
import torch

from demo.cases import crowded_clips, plain_clips
from demo.world import render
from dummyforcing_core.clips.demo_assets import load_demo_codec
from dummyforcing_core.clips.doubts import doubts
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.models.families import FAMILIES, get_family

DEMO, CLIP = get_family("demo"), LatentShape(1, 16, 9, 8, 8)


def encoded(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (3, H, W) in [-1, 1] as one latent frame of the demo's."""
    return load_demo_codec().encode(pixels[None, :, None])


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_that_change_are_for_families_made_for_them(name):
    lines = doubts(get_family(name), True)
    if name in ("demo", "longlive", "krea_realtime"):
        assert lines == []
    else:
        assert len(lines) == 1 and "longlive, krea_realtime" in lines[0]
    assert doubts(get_family(name), False) == []


@pytest.mark.parametrize("clips", [plain_clips(4), crowded_clips(4)], ids=["plain", "crowded"])
def test_pictures_of_the_demo_world_are_known(clips):
    for frame in (0, 40, 80):
        for picture in render(clips, frame, frame + 1)[:, 0]:
            assert doubts(DEMO, False, encoded(picture)) == []


@pytest.mark.parametrize("kind", ["noise", "blobs", "white", "black", "grey", "gradient", "dark photo"])
def test_other_pictures_are_not(kind):
    draws = torch.Generator().manual_seed(0)
    ramp = torch.linspace(-1, 1, 64).expand(64, 64)
    small = torch.randn(1, 3, 8, 8, generator=draws)
    picture = {
        "noise": torch.rand(3, 64, 64, generator=draws) * 2 - 1,
        "blobs": torch.nn.functional.interpolate(small, size=64, mode="bicubic")[0].clamp(-1, 1),
        "white": torch.ones(3, 64, 64),
        "black": -torch.ones(3, 64, 64),
        "grey": torch.zeros(3, 64, 64),
        "dark photo": torch.nn.functional.interpolate(small.sigmoid(), size=64, mode="bilinear")[0] * 0.3 - 1,
        "gradient": torch.stack([ramp, ramp.T, -ramp]),
    }[kind]
    lines = doubts(DEMO, False, encoded(picture))
    assert len(lines) == 1 and "no picture of the demo world" in lines[0]


def test_the_command_line_tells_once(run, tmp_path):
    small = "--frames", "1", "--device", "cpu"
    result = run("generate", "--prompt", "a red circle", "--size", "144x64", *small, "--out", tmp_path / "a.mp4")
    assert result.code == 0 and result.err.count("times the area that Bundled demo model") == 1
