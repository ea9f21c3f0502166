"""The Wan2.1 VAE: recorded pixels, every chunking, an encoder written out, tiles, files and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from dummyforcing_core.errors import CheckpointError, OutputError
from dummyforcing_core.vae.streaming import StreamingDecoder
from dummyforcing_core.vae.wan_vae import LATENT_MEAN, LATENT_STD, WanVAE, WanVAEConfig
from dummyforcing_core.vae.wan_vae_blocks import State
from dummyforcing_core.vae.wan_vae_file import load_wan_vae
from dummyforcing_core.vae.wan_vae_stream import WanVAEDecoder, encode
from dummyforcing_core.vae.wan_vae_tiles import tiles

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "H_vae_stream.safetensors"


def random_vae(dim: int = 8, encoder: bool = True) -> WanVAE:
    torch.manual_seed(0)
    vae = WanVAE(WanVAEConfig(dim=dim, encoder=encoder)).eval().requires_grad_(False)
    for name, tensor in vae.named_parameters():
        if name.endswith("gamma"):
            tensor.uniform_(0.5, 1.5)
    return vae


@pytest.fixture(scope="module")
def vae() -> WanVAE:
    return random_vae()


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(2, 16, 6, 2, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(2, 3, 9, 16, 24, generator=torch.Generator().manual_seed(2)) * 2 - 1


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def push_all(decoder: WanVAEDecoder, latents: Tensor, sizes: list[int]) -> Tensor:
    decoder.reset()
    return torch.cat([*(decoder.push(chunk) for chunk in latents.split(sizes, dim=2)), decoder.flush()], dim=2)


# ---- decoding


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 3, 1], [1, 2, 2, 2]], ids=str)
@pytest.mark.parametrize("frame_by_frame", [True, False])
def test_recorded_pixels_come_out_of_every_chunking(golden, sizes, frame_by_frame):
    vae = WanVAE(WanVAEConfig(dim=8, encoder=False)).eval().requires_grad_(False)
    vae.load_state_dict({name[2:]: tensor.float() for name, tensor in golden.items() if name.startswith("w.")})
    chunks, state = golden["latents_model_space"].split(sizes, dim=2), State()
    decoder = WanVAEDecoder(vae, clamp=False)
    ours = torch.cat([decoder.push(x) if frame_by_frame else vae.decode(x, state) for x in chunks], dim=2)
    torch.testing.assert_close(ours, golden["pixels_full"], rtol=0, atol=5e-5)
    first = vae.decode(golden["latents_model_space"][:, :, :1], State())
    torch.testing.assert_close(first, golden["pixels_first_frame_only"], rtol=0, atol=5e-5)
    assert ours.abs().max() > 1  # so that the next line says something
    torch.testing.assert_close(WanVAEDecoder(vae).push(torch.cat(chunks, 2)), ours.clamp(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sizes", [[1] * 6, [1, 5], [2, 4], [3, 1, 2], [5, 1]], ids=str)
def test_chunks_make_no_difference(vae, latents, sizes):
    whole = vae.decode(latents, State())
    state = State()
    in_chunks = torch.cat([vae.decode(chunk, state) for chunk in latents.split(sizes, dim=2)], dim=2)
    torch.testing.assert_close(in_chunks, whole, rtol=0, atol=1e-5)
    decoder = WanVAEDecoder(vae, clamp=False)
    streamed = push_all(decoder, latents, sizes)
    assert torch.equal(streamed, push_all(decoder, latents, [6]))
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5)


def test_the_decoder_keeps_the_protocol(vae, latents):
    decoder = WanVAEDecoder(vae)
    assert isinstance(decoder, StreamingDecoder)
    assert decoder.flush().shape == (1, 3, 0, 0, 0)
    first, second = decoder.push(latents[:, :, :2]), decoder.push(latents[:, :, 2:3])
    assert (first.shape, second.shape) == ((2, 3, 5, 16, 24), (2, 3, 4, 16, 24))
    assert first.abs().max() <= 1
    assert decoder.push(latents[:, :, :0]).shape == decoder.flush().shape == (2, 3, 0, 16, 24)
    decoder.reset()
    assert decoder.state_bytes == 0
    assert torch.equal(decoder.push(latents[:, :, :2]), first)


def test_clips_of_a_batch_do_not_mix(vae, latents):
    both = WanVAEDecoder(vae).push(latents)
    for i in range(2):
        alone = WanVAEDecoder(vae).push(latents[i : i + 1])
        torch.testing.assert_close(alone, both[i : i + 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tile", [None, (4, 4)])
def test_memory_does_not_grow_with_the_clip(vae, tile):
    decoder = WanVAEDecoder(vae, tile)
    held = []
    for frame in torch.randn(12, 1, 16, 1, 4, 6, generator=torch.Generator().manual_seed(0)):
        decoder.push(frame)
        held.append((decoder.state_bytes, sum(len(state.past) for state in decoder._states)))
    assert held[0] < held[1]  # the convolutions in time start at the second frame
    assert set(held[1:]) == {held[1]}


@pytest.mark.parametrize("shape", [(1, 48, 1, 2, 3), (1, 16, 2, 3), (16,), (0, 16, 1, 2, 3), (1, 16, 1, 0, 3)])
def test_other_latents_are_refused(vae, shape):
    with pytest.raises(OutputError, match="this stream takes"):
        WanVAEDecoder(vae).push(torch.zeros(shape))


def test_a_clip_cannot_change_its_size(vae, latents):
    decoder = WanVAEDecoder(vae)
    decoder.push(latents[:, :, :1])
    with pytest.raises(OutputError, match=r"\(B, h, w\) = \(2, 2, 3\): call reset\(\)"):
        decoder.push(latents[:1, :, :1])


# ---- encoding


class WholeClipEncoder:
    """The encoder written out in float64 over the official names: all frames at once, nothing remembered."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.w = {name: tensor.double() for name, tensor in weights.items()}

    def conv(self, name: str, x: Tensor, pad: tuple[int, ...] = (1, 1, 1, 1, 2, 0), **stride: object) -> Tensor:
        return F.conv3d(F.pad(x, pad), self.w[f"{name}.weight"], self.w[f"{name}.bias"], **stride)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return x / x.square().mean(1, keepdim=True).sqrt() * self.w[f"{name}.gamma"].reshape(1, -1, 1, 1, 1)

    def block(self, name: str, x: Tensor) -> Tensor:
        inside = self.conv(f"{name}.residual.2", F.silu(self.norm(f"{name}.residual.0", x)))
        inside = self.conv(f"{name}.residual.6", F.silu(self.norm(f"{name}.residual.3", inside)))
        return inside + (self.conv(f"{name}.shortcut", x, (0,) * 6) if f"{name}.shortcut.bias" in self.w else x)

    def halve(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.w[f"{name}.resample.1.weight"], self.w[f"{name}.resample.1.bias"]
        x = torch.stack([F.conv2d(F.pad(frame, (0, 1, 0, 1)), weight, bias, stride=2) for frame in x.unbind(2)], 2)
        if f"{name}.time_conv.bias" not in self.w:
            return x
        return torch.cat([x[:, :, :1], self.conv(f"{name}.time_conv", x, (0,) * 6, stride=(2, 1, 1))], 2)

    def attend(self, name: str, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        qkv = self.norm(f"{name}.norm", x)
        matrix, proj = self.w[f"{name}.to_qkv.weight"][..., 0, 0], self.w[f"{name}.proj.weight"][..., 0, 0]
        for b in range(x.shape[0]):
            for f in range(x.shape[2]):
                rows = matrix @ qkv[b, :, f].flatten(1) + self.w[f"{name}.to_qkv.bias"][:, None]
                q, k, v = rows.chunk(3)
                mixed = v @ torch.softmax(q.T @ k / len(q) ** 0.5, dim=1).T
                out[b, :, f] = (proj @ mixed + self.w[f"{name}.proj.bias"][:, None]).reshape(out[b, :, f].shape)
        return x + out

    def __call__(self, pixels: Tensor) -> Tensor:
        x = self.conv("encoder.conv1", pixels.double())
        for i in range(11):
            layer = self.halve if i in (2, 5, 8) else self.block
            x = layer(f"encoder.downsamples.{i}", x)
        x = self.block("encoder.middle.2", self.attend("encoder.middle.1", self.block("encoder.middle.0", x)))
        x = self.conv("encoder.head.2", F.silu(self.norm("encoder.head.0", x)))
        x = self.conv("conv1", x, (0,) * 6)[:, :16]
        mean, std = (torch.tensor(values).double().reshape(-1, 1, 1, 1) for values in (LATENT_MEAN, LATENT_STD))
        return (x - mean) / std


def test_streamed_encoding_equals_the_whole_clip_written_out(vae, pixels):
    ours = encode(vae, pixels)
    assert (ours.shape, ours.dtype) == ((2, 16, 3, 2, 3), torch.float32)
    torch.testing.assert_close(ours.double(), WholeClipEncoder(vae.state_dict())(pixels), rtol=0, atol=1e-5)
    torch.testing.assert_close(vae.encode(pixels, State()), ours, rtol=0, atol=1e-5)


def test_a_first_image_alone_and_longer_clips_begin_alike(vae, pixels):
    torch.testing.assert_close(encode(vae, pixels[:, :, :1]), encode(vae, pixels)[:, :, :1], rtol=0, atol=1e-6)


def test_there_and_back_again(vae, pixels):
    assert WanVAEDecoder(vae).push(encode(vae, pixels)).shape == pixels.shape


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 16), (1, 3, 5, 12, 16), (1, 4, 5, 16, 16), (3, 5, 16, 16)])
def test_other_pixels_are_refused(vae, shape):
    with pytest.raises(OutputError, match="cut or pad the clip"):
        encode(vae, torch.zeros(shape))


# ---- tiles


@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize(("height", "width"), [(4, 5), (9, 17), (23, 16)])
def test_shares_of_the_tiles_sum_to_one(height, width, scale):
    whole = torch.zeros(height * scale, width * scale)
    for tile in tiles(height, width, (5, 8), scale, whole.device):
        part = tile.cut(torch.ones_like(whole), scale)
        assert part.shape[0] <= 5 * scale
        assert part.shape[1] <= 8 * scale
        tile.add(part, whole, scale)
    torch.testing.assert_close(whole, torch.ones_like(whole))


def test_one_tile_over_the_frame_changes_nothing(vae, latents, pixels):
    assert torch.equal(WanVAEDecoder(vae, (4, 4)).push(latents), WanVAEDecoder(vae).push(latents))
    assert torch.equal(encode(vae, pixels, (4, 4)), encode(vae, pixels))


def test_tiles_come_close_to_the_whole_frame():
    """Random weights see much further than trained ones: measured 9 % of the standard deviation decoding, 4 % encoding.

    Without the attention over the frame, only the overlap differs.
    """
    vae = random_vae(dim=4)
    z = torch.randn(1, 16, 2, 8, 40, generator=torch.Generator().manual_seed(0))
    whole = WanVAEDecoder(vae, clamp=False).push(z)
    tiled = WanVAEDecoder(vae, (8, 32), clamp=False)
    ours = push_all(tiled, z, [1, 1])
    assert torch.equal(ours, push_all(tiled, z, [2]))
    assert (ours - whole).std() < 0.12 * whole.std()
    clip = whole.clamp(-1, 1)
    latents, latents_whole = encode(vae, clip, (8, 32)), encode(vae, clip)
    assert (latents - latents_whole).std() < 0.12 * (latents_whole - latents_whole.mean((2, 3, 4), True)).std()

    vae.decoder.middle[1].proj.weight.zero_()
    apart = (WanVAEDecoder(vae, (8, 32), clamp=False).push(z) - WanVAEDecoder(vae, clamp=False).push(z)).abs()
    assert apart[..., : 8 * 8].max() < 1e-5
    assert apart[..., -8 * 8 :].max() < 1e-5
    assert apart.max() > 1e-3


@pytest.mark.parametrize("tile", [(3, 8), (8, 0), (8,)])
def test_tiles_too_small_are_refused(vae, latents, pixels, tile):
    with pytest.raises(OutputError, match="at least 4 latents"):
        WanVAEDecoder(vae, tile).push(latents)
    with pytest.raises(OutputError, match="at least 4 latents"):
        encode(vae, pixels, tile)


# ---- precision and memory format


def test_bf16_is_close_to_fp32(vae, latents, pixels):
    half = random_vae().to(torch.bfloat16)
    ours, exact = WanVAEDecoder(half, clamp=False).push(latents), WanVAEDecoder(vae, clamp=False).push(latents)
    assert ours.dtype == torch.float32
    assert (ours - exact).std() < 0.06 * exact.std()
    ours, exact = encode(half, pixels), encode(vae, pixels)
    assert (ours - exact).std() < 0.06 * exact.std()


def test_channels_last_weights_give_the_same_pixels(vae, latents):
    other = random_vae()
    for module in other.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.to(memory_format=torch.channels_last_3d)
    ours, theirs = WanVAEDecoder(other).push(latents), WanVAEDecoder(vae).push(latents)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


# ---- files


def test_the_official_geometry_has_the_official_size():
    with torch.device("meta"):
        official = WanVAE(WanVAEConfig())
    assert len(official.state_dict()) == 194
    assert sum(tensor.numel() for tensor in official.parameters()) == 126_892_531


@pytest.mark.parametrize(
    ("name", "prefix", "container"),
    [
        ("Wan2.1_VAE.pth", "", None),
        ("Wan2.1_VAE.pth", "", "state_dict"),
        ("wan_2.1_vae.safetensors", "", None),
        ("aio.safetensors", "vae.", None),
        ("aio.safetensors", "first_stage_model.", None),
    ],
)
def test_every_container_loads_to_the_same_tensors(tmp_path, name, prefix, container):
    saved = random_vae(dim=16).state_dict()
    tensors = {f"{prefix}{key}": tensor for key, tensor in saved.items()}
    if prefix:
        tensors["model.diffusion_model.blocks.0.self_attn.q.weight"] = torch.zeros(2, 2)
    if name.endswith(".pth"):
        torch.save({container: tensors} if container else tensors, tmp_path / name)
    else:
        save_file(tensors, tmp_path / name)
    vae = load_wan_vae(tmp_path / name)
    assert vae.config == WanVAEConfig(dim=16)
    assert not vae.training
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    loaded = vae.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)
    assert {t.dtype for t in load_wan_vae(tmp_path / name, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("stored", "loaded"), [(torch.bfloat16, torch.bfloat16), (torch.float8_e4m3fn, torch.float32)], ids=str
)
def test_storage_is_kept_where_it_can_be_computed_in(tmp_path, stored, loaded):
    path = tmp_path / "vae.safetensors"
    save_file({name: tensor.to(stored) for name, tensor in random_vae(dim=4).state_dict().items()}, path)
    assert {tensor.dtype for tensor in load_wan_vae(path).parameters()} == {loaded}


def test_a_file_with_a_decoder_only_decodes(tmp_path, golden, pixels):
    path = tmp_path / "decoder.safetensors"
    save_file({name[2:]: tensor for name, tensor in golden.items() if name.startswith("w.")}, path)
    vae = load_wan_vae(path)
    ours = WanVAEDecoder(vae, clamp=False).push(golden["latents_model_space"])
    torch.testing.assert_close(ours, golden["pixels_full"], rtol=0, atol=5e-5)
    with pytest.raises(OutputError, match="has a decoder only"):
        encode(vae, pixels)


Change = Callable[[dict[str, Tensor]], object]
BAD: dict[str, tuple[Change, str]] = {
    "missing": (lambda t: t.pop("decoder.middle.0.residual.2.weight"), "1 missing: decoder.middle.0.residual.2.weight"),
    "half an encoder": (lambda t: t.pop("conv1.bias"), "1 missing: conv1.bias"),
    "no geometry": (lambda t: t.pop("decoder.head.0.gamma"), "misses decoder.head.0.gamma"),
    "surplus": (lambda t: t.update({"decoder.more": torch.ones(1)}), "1 surplus: decoder.more"),
    "shape": (lambda t: t.update({"conv2.bias": torch.ones(3)}), r"wrong shape: conv2.bias \[3\] instead of \[16\]"),
    "quantised": (lambda t: t.update({"conv2.bias": torch.ones(16, dtype=torch.int8)}), "conv2.bias torch.int8"),
    "48 channels": (lambda t: t.update({"conv2.weight": torch.ones(48, 48, 1, 1, 1)}), r"48 latent.*Wan2\.2's VAE"),
    "Wan2.2": (
        lambda t: t.update({"decoder.upsamples.0.upsamples.0.residual.0.gamma": torch.ones(1)}),
        r"Wan2\.2's VAE \(48 channels",
    ),
}
FOREIGN = {
    "encoder.conv_in.weight": "diffusers' or another model's names",
    "decoder.1.weight": "tiny preview decoder",
    "blocks.0.self_attn.q.weight": "transformer without a VAE",
    "lora_A.weight": r"holds lora_A\.weight, the VAE of Wan2\.1 was expected",
}


@pytest.mark.parametrize("name", BAD)
def test_a_spoiled_file_is_refused_with_the_reason(tmp_path, name):
    change, reason = BAD[name]
    tensors = dict(random_vae(dim=4).state_dict())
    change(tensors)
    save_file(tensors, tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=reason) as error:
        load_wan_vae(tmp_path / "vae.safetensors")
    assert str(error.value).startswith(str(tmp_path / "vae.safetensors"))
    assert "Wan2.1_VAE.pth" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FOREIGN)
def test_another_model_is_refused_by_its_names(tmp_path, name):
    save_file({name: torch.ones(2, 2)}, tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=FOREIGN[name]):
        load_wan_vae(tmp_path / "vae.safetensors")


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_wan_vae(tmp_path / "Wan2.1_VAE.pth")
