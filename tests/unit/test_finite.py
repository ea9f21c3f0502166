"""NaN and infinity: refused in every weight while it is loaded, noticed in latents one chunk later."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dummyforcing_core.clips.start import start_from_latents
from dummyforcing_core.clips.text_features import _saved_features
from dummyforcing_core.errors import CheckpointError, OutputError
from dummyforcing_core.geometry import LatentShape, Span
from dummyforcing_core.kv.plan import HeadMemory, HeadPlan
from dummyforcing_core.loops import latent_check
from dummyforcing_core.loops.latent_check import LatentCheck
from dummyforcing_core.loops.run import ChunkResult
from dummyforcing_core.models.checkpoints import convert_checkpoint, empty_model, load_model
from dummyforcing_core.models.finite import PIECE, check_finite, check_loaded, is_finite
from dummyforcing_core.models.lora import Lora
from dummyforcing_core.models.wan import CausalWan, WanConfig
from dummyforcing_core.vae.tiny_vae import TinyDecoder
from dummyforcing_core.vae.tiny_vae_file import load_tiny_decoder
from dummyforcing_core.vae.wan_vae import WanVAE, WanVAEConfig
from dummyforcing_core.vae.wan_vae_file import load_wan_vae

CONFIG = WanConfig(dim=256, ffn_dim=64, num_heads=2, num_layers=2, text_dim=16, text_len=4, freq_dim=16)
NAMES = list(empty_model(CONFIG).state_dict())
NAN, INFINITY = float("nan"), float("inf")


def spoiled(tensor: Tensor, value: float) -> Tensor:
    """With one number of it replaced, somewhere in the middle."""
    tensor = tensor.detach().clone()
    tensor.view(-1)[tensor.numel() // 2] = value
    return tensor


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: tensor.detach() for name, tensor in CausalWan(CONFIG).state_dict().items()}


class TestSearch:
    @pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2])
    def test_one_number(self, dtype: torch.dtype, value: float) -> None:
        good = torch.linspace(-3, 3, 1000)
        assert is_finite(good.to(dtype))
        assert not is_finite(spoiled(good, value).to(dtype))

    def test_float8_without_infinity(self) -> None:
        good = torch.linspace(-448, 448, 1000)
        assert is_finite(good.to(torch.float8_e4m3fn))
        assert not is_finite(spoiled(good, NAN).to(torch.float8_e4m3fn))

    def test_the_last_of_many_pieces(self) -> None:
        weights = torch.zeros(PIECE + 3).to(torch.float8_e4m3fn)
        assert is_finite(weights)
        weights[-1:] = torch.tensor([NAN]).to(torch.float8_e4m3fn)
        assert not is_finite(weights)

    @pytest.mark.parametrize(
        "tensor", [torch.zeros(0), torch.zeros(3, dtype=torch.uint8), torch.zeros(3, device="meta")]
    )
    def test_what_cannot_hold_them(self, tensor: Tensor) -> None:
        assert is_finite(tensor)

    def test_the_largest_numbers_are_no_infinity(self) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            assert is_finite(torch.full((9,), torch.finfo(dtype).max, dtype=dtype))

    def test_a_set_names_the_first(self) -> None:
        with pytest.raises(CheckpointError, match=r"^b holds NaN or infinity"):
            check_finite({"a": torch.zeros(2), "b": torch.full((2,), NAN), "c": torch.full((2,), NAN)})

    def test_numbers_that_the_dtype_cannot_hold(self) -> None:
        stored = torch.tensor([1e6])
        with pytest.raises(CheckpointError, match=r"^w holds numbers beyond float16; use another dtype"):
            check_loaded("w", stored.half(), stored)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_of_a_model(state: dict[str, Tensor], tmp_path: Path, name: str) -> None:
    path = tmp_path / "self_forcing.safetensors"
    save_file(state | {name: spoiled(state[name], NAN)}, path)
    with pytest.raises(CheckpointError) as refused:
        load_model(path)
    assert str(refused.value).startswith(f"{path}: {name} holds NaN or infinity")
    assert "download it again" in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_has_all_the_tensors_that_are_tried(state: dict[str, Tensor]) -> None:
    assert len(NAMES) == 69 and set(NAMES) == set(state)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16])
def test_a_weight_that_is_widened(state: dict[str, Tensor], tmp_path: Path, dtype: torch.dtype) -> None:
    path, name = tmp_path / "self_forcing.safetensors", "blocks.1.self_attn.k.weight"
    small = {key: tensor.to(dtype) for key, tensor in state.items()}
    save_file(small, path)
    load_model(path)
    save_file(small | {name: spoiled(state[name], NAN).to(dtype)}, path)
    with pytest.raises(CheckpointError, match=rf"{name} holds NaN"):
        load_model(path, dtype=torch.bfloat16)


def test_a_weight_that_the_dtype_cannot_hold(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "self_forcing.safetensors"
    save_file(state | {"head.head.bias": spoiled(state["head.head.bias"], 1e6)}, path)
    load_model(path, dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"head\.head\.bias holds numbers beyond float16"):
        load_model(path, dtype=torch.float16)
    with pytest.raises(CheckpointError, match=r"head\.head\.bias holds numbers beyond float16"):
        convert_checkpoint(path, tmp_path / "small.safetensors", dtype=torch.float16)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_damaged_file_is_not_converted(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "self_forcing.safetensors"
    save_file(state | {"head.head.bias": spoiled(state["head.head.bias"], NAN)}, path)
    with pytest.raises(CheckpointError, match=r"self_forcing\.safetensors: head\.head\.bias holds NaN"):
        convert_checkpoint(path, tmp_path / "new.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("side", ["lora_A", "lora_B"])
def test_a_lora(state: dict[str, Tensor], tmp_path: Path, side: str) -> None:
    path, module = tmp_path / "self_forcing.safetensors", "blocks.0.self_attn.q"
    save_file(state, path)
    parts = {"lora_A": torch.ones(2, CONFIG.dim), "lora_B": torch.ones(CONFIG.dim, 2)}
    parts[side] = spoiled(parts[side], NAN)
    save_file({f"{module}.{part}.weight": tensor for part, tensor in parts.items()}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=rf"lora\.safetensors: {module}\.{side}\.weight holds NaN"):
        Lora.read(tmp_path / "lora.safetensors")


def test_a_lora_that_leaves_the_dtype(state: dict[str, Tensor], tmp_path: Path) -> None:
    path, module = tmp_path / "self_forcing.safetensors", "blocks.0.self_attn.q"
    save_file(state, path)
    parts = {"lora_A": torch.ones(2, CONFIG.dim), "lora_B": torch.ones(CONFIG.dim, 2)}
    save_file({f"{module}.{part}.weight": tensor for part, tensor in parts.items()}, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=rf"lora\.safetensors: makes {module}\.weight NaN"):
        load_model(path, lora=Lora.read(tmp_path / "lora.safetensors", 3e38))


VAE = {name: torch.zeros(t.shape) for name, t in WanVAE(WanVAEConfig(dim=8)).state_dict().items()}
TINY = {name: torch.zeros(t.shape) for name, t in TinyDecoder(False).state_dict().items()}


@pytest.mark.parametrize("name", [*list(VAE)[::12], "conv2.weight", "decoder.middle.1.to_qkv.weight"])
def test_a_vae(tmp_path: Path, name: str) -> None:
    save_file(VAE | {name: spoiled(VAE[name], NAN)}, tmp_path / "vae.safetensors")
    with pytest.raises(CheckpointError, match=rf"vae\.safetensors: {name} holds NaN"):
        load_wan_vae(tmp_path / "vae.safetensors")


@pytest.mark.parametrize("name", list(TINY)[::8])
def test_a_tiny_decoder(tmp_path: Path, name: str) -> None:
    save_file(TINY | {name: spoiled(TINY[name], INFINITY)}, tmp_path / "taew2_1.safetensors")
    with pytest.raises(CheckpointError, match=rf"taew2_1\.safetensors: {name} holds NaN"):
        load_tiny_decoder(tmp_path / "taew2_1.safetensors")


def test_saved_text_features(tmp_path: Path) -> None:
    save_file({"embedding": spoiled(torch.zeros(4, 16), NAN)}, tmp_path / "text.safetensors")
    with pytest.raises(CheckpointError, match=r"text\.safetensors: holds NaN"):
        _saved_features(tmp_path / "text.safetensors", 8, 16)


def test_start_latents(tmp_path: Path) -> None:
    save_file({"latent": spoiled(torch.zeros(1, 16, 1, 4, 4), NAN)}, tmp_path / "start.safetensors")
    with pytest.raises(OutputError, match=r"start\.safetensors: its latents hold NaN"):
        start_from_latents(tmp_path / "start.safetensors", LatentShape(1, 16, 3, 4, 4))


class TestLatents:
    def chunk(self, number: int, value: float = 0.0) -> ChunkResult:
        latent = torch.full((1, 16, 1, 2, 2), value)
        return ChunkResult(Span(number, number, number + 1), latent, HeadPlan.uniform(1, 1, HeadMemory(), "all"))

    def test_finite_ones_pass(self) -> None:
        with LatentCheck() as check:
            for number in range(3):
                check.add(self.chunk(number))

    def test_the_answer_is_read_one_chunk_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []
        read: list[int] = []

        def to_host(flag: Tensor):
            number = len(asked)
            asked.append(number)
            return lambda: read.append(number) or flag

        monkeypatch.setattr(latent_check, "to_host", to_host)
        with LatentCheck() as check:
            for number in range(3):
                check.add(self.chunk(number))
                assert (asked, read) == (list(range(number + 1)), list(range(number)))
        assert read == [0, 1, 2]

    def test_a_bad_chunk_is_named_at_the_next(self) -> None:
        with pytest.raises(OutputError, match="chunk 2 came out as NaN"), LatentCheck() as check:
            check.add(self.chunk(0))
            check.add(self.chunk(1, NAN))
            check.add(self.chunk(2))
            raise AssertionError("the next chunk did not tell")

    def test_the_last_chunk_is_read_at_the_end(self) -> None:
        with pytest.raises(OutputError, match="chunk 1 came out as NaN"), LatentCheck() as check:
            check.add(self.chunk(0, INFINITY))

    def test_pixels_that_fail_are_the_latents_fault(self) -> None:
        with pytest.raises(OutputError, match="chunk 1 came out as NaN"), LatentCheck() as check:
            check.add(self.chunk(0, NAN))
            raise OutputError("the decoded pixels hold NaN or infinity")

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
    def test_other_errors_stay(self, error: type[BaseException]) -> None:
        with pytest.raises(error), LatentCheck() as check:
            check.add(self.chunk(0, NAN))
            raise error
