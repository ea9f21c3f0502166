"""The tiny decoders: ComfyUI's pixels, a whole clip written out, every way to cut it, files and what is refused.

data/tiny_vae.safetensors was recorded from ComfyUI 0.27.0 on the CPU: comfy.sd.VAE over `seeded_weights` (in float16
for taew2_1, where ComfyUI multiplies by HunyuanVideo's scale what it must therefore be divided by before; in float32
for lighttaew2_1, which gets Wan21.process_out of the latents), decode() in float32 of `noise(1, (1, 16, 4, 3, 2))`,
pixels as they came, (B, 3, f, H, W) around [0, 1].
"""

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from dummyforcing_core.errors import CheckpointError, OutputError
from dummyforcing_core.vae.streaming import StreamingDecoder
from dummyforcing_core.vae.tiny_vae import TinyDecoder, TinyState, TinyStream
from dummyforcing_core.vae.tiny_vae_file import is_tiny_decoder, load_tiny_decoder
from dummyforcing_core.vae.wan_vae import WanVAE, WanVAEConfig

RECORDED = Path(__file__).parent / "data" / "tiny_vae.safetensors"
NAMES = ("taew2_1", "lighttaew2_1")


def official_shapes() -> dict[str, tuple[int, ...]]:
    """The tensors of the published files without their encoder, in the files' order."""
    shapes: dict[str, tuple[int, ...]] = {"decoder.1.weight": (256, 16, 3, 3), "decoder.1.bias": (256,)}
    for start, width, out, times in ((3, 256, 128, 1), (9, 128, 64, 2), (15, 64, 64, 2)):
        for block in range(start, start + 3):
            for conv, channels in ((0, 2 * width), (2, width), (4, width)):
                shapes[f"decoder.{block}.conv.{conv}.weight"] = (width, channels, 3, 3)
                shapes[f"decoder.{block}.conv.{conv}.bias"] = (width,)
        shapes[f"decoder.{start + 4}.conv.weight"] = (times * width, width, 1, 1)
        shapes[f"decoder.{start + 5}.weight"] = (out, width, 3, 3)
    return shapes | {"decoder.22.weight": (3, 64, 3, 3), "decoder.22.bias": (3,)}


def seeded_weights() -> dict[str, Tensor]:
    """Float16 numbers anybody can draw again, scaled so that pixels land around the middle of [0, 1]."""
    random = np.random.RandomState(0)
    weights = {}
    for name, shape in official_shapes().items():
        values = random.standard_normal(shape) * (0.1 if len(shape) == 1 else prod(shape[1:]) ** -0.5)
        weights[name] = torch.from_numpy(values.astype(np.float16))
    weights["decoder.22.weight"] *= 0.25
    weights["decoder.22.bias"] += 0.5
    return weights


def noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape).astype(np.float32))


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return seeded_weights()


@pytest.fixture(scope="module")
def folder(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both files as they are published: a .pth in float16, a .safetensors in float32, each with an encoder."""
    path = tmp_path_factory.mktemp("tiny")
    tensors = weights | {"encoder.0.weight": torch.zeros(64, 3, 3, 3), "encoder.0.bias": torch.zeros(64)}
    torch.save({name: tensor.half() for name, tensor in tensors.items()}, path / "taew2_1.pth")
    save_file({name: tensor.float() for name, tensor in tensors.items()}, path / "lighttaew2_1.safetensors")
    return path


@pytest.fixture(scope="module")
def decoders(folder: Path) -> dict[str, TinyDecoder]:
    return {path.stem: load_tiny_decoder(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def decoder(decoders: dict[str, TinyDecoder]) -> TinyDecoder:
    return decoders["lighttaew2_1"]


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return noise(2, (2, 16, 5, 3, 2))


def push_all(stream: TinyStream, latents: Tensor, sizes: list[int]) -> Tensor:
    stream.reset()
    return torch.cat([*(stream.push(chunk) for chunk in latents.split(sizes, dim=2)), stream.flush()], dim=2)


# ---- pixels


@pytest.mark.parametrize("sizes", [[4], [1, 1, 1, 1], [3, 1], [1, 0, 2, 1]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_comfyuis_pixels_come_out_of_every_chunking(decoders, name, sizes):
    theirs = load_file(RECORDED)[name] * 2 - 1
    ours = push_all(TinyStream(decoders[name], clamp=False), noise(1, (1, 16, 4, 3, 2)), sizes)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def whole_clip(weights: dict[str, Tensor], latents: Tensor) -> Tensor:
    """The decoder written out in float64 from its description: one clip (16, T, h, w), one frame after the other."""
    w = {name: tensor.double() for name, tensor in weights.items()}

    def conv(name: str, x: Tensor) -> Tensor:
        return F.conv2d(x[None], w[f"{name}.weight"], w.get(f"{name}.bias"), padding="same")[0]

    frames = [conv("decoder.1", 3 * torch.tanh(z / 3)).relu() for z in latents.double().unbind(1)]
    for start in (3, 9, 15):
        for block in (f"decoder.{i}.conv" for i in range(start, start + 3)):
            outputs = []
            for i, x in enumerate(frames):
                y = torch.cat([x, frames[i - 1] if i else 0 * x])
                y = conv(f"{block}.4", conv(f"{block}.2", conv(f"{block}.0", y).relu()).relu())
                outputs.append((x + y).relu())
            frames = outputs
        frames = [x.repeat_interleave(2, 1).repeat_interleave(2, 2) for x in frames]
        grown = [conv(f"decoder.{start + 4}.conv", x).split(frames[0].shape[0]) for x in frames]
        frames = [conv(f"decoder.{start + 5}", x) for later in grown for x in later]
    return torch.stack([conv("decoder.22", x.relu()) for x in frames], 1)[:, 3:] * 2 - 1


@pytest.mark.parametrize("shape", [(2, 16, 4, 3, 2), (1, 16, 2, 13, 7), (1, 16, 1, 1, 1)], ids=str)
def test_the_stream_equals_the_whole_clip_written_out(weights, decoders, shape):
    x = noise(3, shape)
    theirs = torch.stack([whole_clip(weights, clip) for clip in x])
    ours = TinyStream(decoders["taew2_1"], clamp=False).push(x)
    assert (ours.shape, ours.dtype) == (theirs.shape, torch.float32)
    assert ours.shape == (shape[0], 3, 4 * (shape[2] - 1) + 1, 8 * shape[3], 8 * shape[4])
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("sizes", [[1] * 5, [1, 4], [2, 3], [3, 1, 1], [0, 4, 0, 1, 0]], ids=str)
def test_chunks_make_no_difference_not_even_in_the_last_bit(decoder, latents, batch, sizes):
    stream = TinyStream(decoder)
    assert torch.equal(push_all(stream, latents[:batch], sizes), push_all(stream, latents[:batch], [5]))


@pytest.mark.parametrize("sizes", [[5], [2, 3], [1, 4]], ids=str)
def test_several_latent_frames_at_once_give_the_same_pixels(decoder, latents, sizes):
    state = TinyState(batch=2)
    at_once = torch.cat([decoder.decode(chunk, state) for chunk in latents.split(sizes, dim=2)], dim=2)
    torch.testing.assert_close(at_once, TinyStream(decoder, clamp=False).push(latents), rtol=0, atol=1e-5)
    assert all(kept.untyped_storage().nbytes() == kept.nbytes for kept in state.past.values())


def test_clips_of_a_batch_do_not_mix(decoder, latents):
    both = TinyStream(decoder).push(latents)
    for i in range(2):
        alone = TinyStream(decoder).push(latents[i : i + 1])
        torch.testing.assert_close(alone, both[i : i + 1], rtol=0, atol=1e-5)


def test_pixels_are_clamped_unless_told_otherwise(decoder):
    x = noise(1, (1, 16, 4, 3, 2))
    free = TinyStream(decoder, clamp=False).push(x)
    assert free.min() < -1  # so that the next line says something
    assert torch.equal(TinyStream(decoder).push(x), free.clamp(-1, 1))


# ---- the stream


def test_the_stream_keeps_the_protocol(decoder, latents):
    stream, before = TinyStream(decoder), latents.clone()
    assert isinstance(stream, StreamingDecoder)
    assert stream.flush().shape == (1, 3, 0, 0, 0)
    assert stream.push(latents[:, :, :0]).shape == (2, 3, 0, 24, 16)
    first, second = stream.push(latents[:, :, :2]), stream.push(latents[:, :, 2:3])
    assert (first.shape, second.shape) == ((2, 3, 5, 24, 16), (2, 3, 4, 24, 16))
    assert stream.push(latents[:, :, :0]).shape == stream.flush().shape == (2, 3, 0, 24, 16)
    stream.reset()
    assert stream.state_bytes == 0
    assert torch.equal(stream.push(latents[:, :, :2]), first)
    assert torch.equal(latents, before)


def test_two_streams_share_one_decoder(decoder, latents):
    a, b = TinyStream(decoder), TinyStream(decoder)
    mixed = [(a.push(latents[:1, :, i : i + 1]), b.push(latents[1:, :, i : i + 1])) for i in range(5)]
    for i, stream in enumerate((a, b)):
        assert torch.equal(torch.cat([pair[i] for pair in mixed], 2), push_all(stream, latents[i : i + 1], [5]))


def test_what_is_done_to_the_pixels_stays_there(decoder, latents):
    stream = TinyStream(decoder)
    clean = [stream.push(chunk) for chunk in latents.split(1, dim=2)]
    stream.reset()
    for chunk, expected in zip(latents.split(1, dim=2), clean, strict=True):
        pixels = stream.push(chunk.clone())
        assert torch.equal(pixels, expected)
        pixels.fill_(7)


def test_memory_does_not_grow_with_the_clip_or_the_push(decoder):
    stream, frames_at_once = TinyStream(decoder), []
    hook = decoder.decoder[22].register_forward_hook(lambda _, inputs, __: frames_at_once.append(len(inputs[0])))
    one_frame = 4 * 3 * (256 * 6 + 128 * 24 + 64 * 96)  # float32, 3 blocks a level, 6 latent pixels
    try:
        for count in (1, 1, 6, 2):
            stream.push(noise(0, (2, 16, count, 3, 2)))
            kept = stream._state.past.values()
            assert stream.state_bytes == 2 * one_frame
            assert sum(tensor.untyped_storage().nbytes() for tensor in kept) == stream.state_bytes
    finally:
        hook.remove()
    assert frames_at_once == [2 * 4] * 10


@pytest.mark.parametrize("shape", [(1, 48, 1, 2, 3), (1, 16, 2, 3), (16,), (0, 16, 1, 2, 3), (1, 16, 1, 0, 3)])
def test_other_latents_are_refused(decoder, shape):
    with pytest.raises(OutputError, match="this stream takes"):
        TinyStream(decoder).push(torch.zeros(shape))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_refused_push_leaves_the_stream_as_it_was(decoder, latents, bad):
    stream, spoiled = TinyStream(decoder), latents[:, :, 2:4].clone()
    spoiled[1, 7, 1, 2, 0] = bad
    first = stream.push(latents[:, :, :2])
    with pytest.raises(OutputError, match="NaN or infinity"):
        stream.push(spoiled)
    with pytest.raises(OutputError, match=r"\(B, h, w\) = \(2, 3, 2\): call reset\(\)"):
        stream.push(latents[:1])
    rest = stream.push(latents[:, :, 2:])
    assert torch.equal(torch.cat([first, rest], 2), push_all(stream, latents, [5]))


def test_a_clip_refused_at_its_start_does_not_fix_the_size(decoder, latents):
    stream = TinyStream(decoder)
    with pytest.raises(OutputError, match="NaN or infinity"):
        stream.push(torch.full((1, 16, 1, 9, 9), torch.nan))
    assert stream.push(latents).shape[0] == 2


# ---- precision and memory format


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_close_to_fp32(folder, decoder, latents, dtype):
    half = TinyStream(load_tiny_decoder(folder / "lighttaew2_1.safetensors", dtype=dtype), clamp=False)
    ours, exact = half.push(latents.to(dtype)), TinyStream(decoder, clamp=False).push(latents.to(dtype).float())
    assert ours.dtype == torch.float32
    assert (ours - exact).std() < 0.03 * exact.std()


def test_channels_last_weights_give_the_same_pixels(folder, decoder, latents):
    other = load_tiny_decoder(folder / "lighttaew2_1.safetensors").to(memory_format=torch.channels_last)
    stream = TinyStream(other)
    torch.testing.assert_close(stream.push(latents), TinyStream(decoder).push(latents), rtol=0, atol=1e-5)


# ---- files


def test_the_tensors_are_those_of_the_published_files():
    """ComfyUI's TAEHV has 64 and 9,844,611 numbers in the decoder; with the encoder 11,315,539, 22.6 MB in float16."""
    with torch.device("meta"):
        ours = {name: tuple(tensor.shape) for name, tensor in TinyDecoder(False).state_dict().items()}
    assert ours == official_shapes()
    assert len(ours) == 64
    assert sum(map(prod, ours.values())) == 9_844_611


def small_file() -> dict[str, Tensor]:
    return {name: torch.zeros(shape, dtype=torch.float8_e4m3fn) for name, shape in official_shapes().items()}


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("taew2_1.pth", False),
        ("TAEW2_1.pt", False),
        ("my-taew2.1_fp16.safetensors", False),
        ("lighttaew2_1.pth", True),
        ("LightTAEW2_1_bf16.safetensors", True),
        ("light_taew2_1.safetensors", True),
    ],
)
def test_the_name_says_which_latents_it_takes(tmp_path, name, raw):
    tensors = small_file()
    save_file(tensors, tmp_path / name) if name.endswith("safetensors") else torch.save(tensors, tmp_path / name)
    loaded = load_tiny_decoder(tmp_path / name)
    assert loaded.raw_latents is raw
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert load_tiny_decoder(tmp_path / name, raw_latents=not raw).raw_latents is not raw


@pytest.mark.parametrize("name", ["taehv.pth", "preview.pth", "lighttae.pth", "taecvx.pth"])
def test_a_name_that_says_nothing_is_refused_unless_the_caller_knows(tmp_path, name):
    torch.save(small_file(), tmp_path / name)
    with pytest.raises(CheckpointError, match="rename it to taew2_1 or lighttaew2_1") as error:
        load_tiny_decoder(tmp_path / name)
    assert str(error.value).startswith(str(tmp_path / name))
    assert load_tiny_decoder(tmp_path / name, raw_latents=True).raw_latents


@pytest.mark.parametrize("key", [None, "state_dict", "vae"])
def test_containers_and_the_encoder_make_no_difference(tmp_path, weights, key):
    tensors = weights | {"encoder.0.weight": torch.full((64, 3, 3, 3), torch.nan), "encoder.99.odd": torch.ones(1)}
    torch.save({key: tensors} if key else tensors, tmp_path / "taew2_1.pth")
    loaded = load_tiny_decoder(tmp_path / "taew2_1.pth").state_dict()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name].float()) for name in weights)


@pytest.mark.parametrize(
    ("stored", "device", "asked", "loaded"),
    [
        (torch.float16, "cpu", None, torch.float32),
        (torch.bfloat16, "cpu", torch.bfloat16, torch.bfloat16),
        (torch.float16, "meta", None, torch.float16),
        (torch.float8_e4m3fn, "meta", None, torch.bfloat16),
        (torch.float8_e4m3fn, "cpu", None, torch.float32),
    ],
    ids=str,
)
def test_precision(tmp_path, stored, device, asked, loaded):
    path = tmp_path / "taew2_1.safetensors"
    save_file({name: tensor.to(stored) for name, tensor in small_file().items()}, path)
    parameters = list(load_tiny_decoder(path, device, asked).parameters())
    assert {(p.dtype, p.device.type) for p in parameters} == {(loaded, device)}


Change = Callable[[dict[str, Tensor]], object]
BAD: dict[str, tuple[Change, str]] = {
    "missing": (lambda t: t.pop("decoder.10.conv.2.bias"), "1 missing: decoder.10.conv.2.bias"),
    "no first": (lambda t: t.pop("decoder.1.weight"), "1 missing: decoder.1.weight"),
    "surplus": (lambda t: t.update({"decoder.23.weight": torch.ones(1)}), "1 surplus: decoder.23.weight"),
    "other model beside it": (lambda t: t.update({"blocks.0.q": torch.ones(1)}), "1 surplus: blocks.0.q"),
    "shape": (
        lambda t: t.update({"decoder.22.bias": torch.ones(12)}),
        r"wrong shape: decoder.22.bias \[12\] instead of \[3\]",
    ),
    "quantised": (
        lambda t: t.update({"decoder.22.bias": torch.ones(3, dtype=torch.int8)}),
        "decoder.22.bias torch.int8",
    ),
    "Wan2.2": (lambda t: t.update({"decoder.1.weight": torch.ones(256, 48, 3, 3)}), r"48 latent channels \(Wan2\.2 5B"),
    "unknown": (lambda t: t.update({"decoder.1.weight": torch.ones(256, 4, 3, 3)}), r"4 latent channels \(another"),
    "several": (lambda t: [t.pop(f"decoder.{i}.conv.0.bias") for i in (3, 4, 5, 9)], r"4 missing.* and 1 more"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_spoiled_file_is_refused_with_the_reason(tmp_path, case):
    change, reason = BAD[case]
    tensors = small_file()
    change(tensors)
    path = tmp_path / "nameless.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=reason) as error:
        load_tiny_decoder(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "lighttaew2_1 (lightx2v" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["decoder.conv1.weight", "blocks.0.self_attn.q.weight", "lora_A\n.weight"])
def test_another_model_is_refused(tmp_path, name):
    save_file({name: torch.ones(2, 2)}, tmp_path / "taew2_1.safetensors")
    with pytest.raises(CheckpointError, match=r"holds .*a tiny decoder for Wan2\.1 was expected") as error:
        load_tiny_decoder(tmp_path / "taew2_1.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no such file"), (b"PK\x03\x04 half", "truncated"), (b"", "truncated")]
)
def test_an_unreadable_file_says_so(tmp_path, content, reason):
    path = tmp_path / "taew2_1.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        load_tiny_decoder(path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    with torch.device("meta"):
        torch.save(TinyDecoder(False), tmp_path / "taew2_1.pt")
    with pytest.raises(CheckpointError, match="needs the Python object"):
        load_tiny_decoder(tmp_path / "taew2_1.pt")


def test_tiny_decoders_are_told_from_a_full_vae():
    with torch.device("meta"):
        full = WanVAE(WanVAEConfig()).state_dict()
    tiny = official_shapes()
    assert is_tiny_decoder(tiny)
    assert is_tiny_decoder(f"vae.{name}" for name in tiny)
    assert is_tiny_decoder(["encoder.0.weight", "decoder.1.conv.0.weight"])  # taehv's "super" kind
    assert not is_tiny_decoder(full)
    assert not is_tiny_decoder([f"first_stage_model.{name}" for name in full])
    assert not is_tiny_decoder(["decoder.up.0.block.0.conv1.weight", "encoder.4.conv.0.weight"])
    assert not is_tiny_decoder([])
