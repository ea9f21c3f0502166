"""The Wan2.1 forward: names, per-frame noise levels, the shortened clean pass, prompts per span."""

import pytest
import torch

from dummyforcing_core.kv.attention import attention, reference
from dummyforcing_core.models.wan import CausalWan, WanConfig, forward, sinusoid, text_kv, time_embedding

CONFIG = WanConfig(dim=64, ffn_dim=96, num_heads=2, num_layers=3, text_dim=8, text_len=5, freq_dim=32)


@pytest.fixture(scope="module")
def model() -> CausalWan:
    torch.manual_seed(0)
    return CausalWan(CONFIG).requires_grad_(False)


def drawn(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


class Recorder:
    """A memory that forgets: dense attention over the pass alone; records what every layer handed in."""

    def __init__(self):
        self.called: dict[int, tuple[torch.Tensor, ...]] = {}
        self.stored: dict[int, tuple[torch.Tensor, ...]] = {}

    attend = staticmethod(attention)

    def __call__(self, layer, q, k, v):
        self.called[layer] = q, k, v
        return reference(q, k, v)

    def store(self, layer, k, v):
        self.stored[layer] = k, v


class Identity:
    """No mixing between tokens: every query gets its own value."""

    attend = staticmethod(attention)

    def __call__(self, layer, q, k, v):
        return v

    def store(self, layer, k, v):
        raise AssertionError("only passes without output store")


# -- tensor names ----------------------------------------------------------------------------------------------------

OUTER = [
    "patch_embedding.weight", "patch_embedding.bias",
    *(f"text_embedding.{i}.{leaf}" for i in (0, 2) for leaf in ("weight", "bias")),
    *(f"time_embedding.{i}.{leaf}" for i in (0, 2) for leaf in ("weight", "bias")),
    "time_projection.1.weight", "time_projection.1.bias",
    "head.head.weight", "head.head.bias", "head.modulation",
]  # fmt: skip
ATTENTION = [
    *(f"{part}.{leaf}" for part in "qkvo" for leaf in ("weight", "bias")),
    "norm_q.weight",
    "norm_k.weight",
]
BLOCK = [
    "modulation", "norm3.weight", "norm3.bias", "ffn.0.weight", "ffn.0.bias", "ffn.2.weight", "ffn.2.bias",
    *(f"{part}.{leaf}" for part in ("self_attn", "cross_attn") for leaf in ATTENTION),
]  # fmt: skip


def test_tensors_carry_exactly_the_official_names(model):
    names = OUTER + [f"blocks.{layer}.{name}" for layer in range(3) for name in BLOCK]
    assert len(names) == 15 + 27 * 3
    assert sorted(model.state_dict()) == sorted(names)


def test_the_1_3b_model_has_825_tensors_of_the_published_sizes():
    with torch.device("meta"):
        wan = CausalWan(WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30))
    tensors = wan.state_dict()
    assert len(tensors) == 825
    assert wan.config.head_dim == 128
    assert tensors["blocks.29.modulation"].shape == (1, 6, 1536)
    assert tensors["head.modulation"].shape == (1, 2, 1536)
    assert tensors["blocks.0.self_attn.norm_q.weight"].shape == (1536,)
    assert tensors["blocks.0.ffn.0.weight"].shape == (8960, 1536)
    assert tensors["patch_embedding.weight"].shape == (1536, 16, 1, 2, 2)
    assert tensors["head.head.weight"].shape == (64, 1536)
    assert tensors["text_embedding.0.weight"].shape == (1536, 4096)
    assert tensors["time_projection.1.weight"].shape == (6 * 1536, 1536)
    assert 1.41e9 < sum(t.numel() for t in tensors.values()) < 1.43e9


# -- forward ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch, frames, height, width", [(1, 1, 2, 2), (2, 3, 4, 6), (1, 4, 6, 2)])
def test_velocity_has_the_shape_of_the_latents(model, batch, frames, height, width):
    x = drawn(batch, 16, frames, height, width)
    text = text_kv(model, drawn(batch, 5, 8))
    memory = Recorder()
    velocity = forward(model, x, torch.full((batch, frames), 500.0), text, memory)
    assert velocity.shape == x.shape
    assert velocity.std() > 0
    tokens = frames * height * width // 4
    assert {tuple(t.shape) for qkv in memory.called.values() for t in qkv} == {(batch, tokens, 2, 32)}
    assert sorted(memory.called) == [0, 1, 2]
    assert memory.stored == {}


def test_patches_come_back_where_they_were(model):
    """Without mixing, a change of one patch of one frame changes the velocity there and nowhere else."""
    x, text = drawn(1, 16, 3, 4, 6), text_kv(model, drawn(1, 5, 8))
    time = torch.full((1, 3), 500.0)
    changed = x.clone()
    changed[:, :, 1, 2:4, 4:6] += 1
    difference = forward(model, x, time, text, Identity()) - forward(model, changed, time, text, Identity())
    touched = difference.abs().amax(dim=(0, 1)) > 1e-4
    expected = torch.zeros(3, 4, 6, dtype=torch.bool)
    expected[1, 2:4, 4:6] = True
    assert torch.equal(touched, expected)


@pytest.mark.parametrize("frame", [0, 1, 2])
def test_a_noise_level_per_frame_equals_one_call_per_level(model, frame):
    x, text = drawn(2, 16, 3, 4, 4), text_kv(model, drawn(2, 5, 8))
    levels = torch.tensor([[1000.0, 500.0, 0.0], [250.0, 937.5, 833.3]])
    mixed = forward(model, x, levels, text, Identity())
    for item in range(2):
        one_text = [(k[item : item + 1], v[item : item + 1]) for k, v in text]
        part, level = x[item : item + 1, :, frame : frame + 1], levels[item : item + 1, frame : frame + 1]
        alone = forward(model, part, level, one_text, Identity())
        torch.testing.assert_close(mixed[item, :, frame], alone[0, :, 0], rtol=1e-5, atol=1e-6)
    shifted = forward(model, x, levels + 50, text, Identity())
    assert (shifted - mixed)[:, :, frame].abs().max() > 1e-4


def test_without_output_the_same_keys_and_values_are_handed_in_bit_for_bit(model):
    x, text, time = drawn(2, 16, 3, 4, 4), text_kv(model, drawn(2, 5, 8)), torch.zeros(2, 3)
    whole, short = Recorder(), Recorder()
    assert forward(model, x, time, text, whole) is not None
    assert forward(model, x, time, text, short, output=False) is None
    assert sorted(short.called) == [0, 1]
    assert sorted(short.stored) == [2]
    for layer in (0, 1):
        assert all(torch.equal(a, b) for a, b in zip(whole.called[layer], short.called[layer], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.called[2][1:], short.stored[2], strict=True))


def test_a_time_embedding_made_beforehand_gives_the_same_bits(model):
    x, text, time = drawn(2, 16, 3, 4, 4), text_kv(model, drawn(2, 5, 8)), torch.tensor([[9.0, 5.0, 0.0]] * 2)
    at_once = forward(model, x, time, text, Recorder())
    assert torch.equal(at_once, forward(model, x, time_embedding(model, time), text, Recorder()))


@pytest.mark.parametrize("batch, spans", [(1, 2), (1, 3), (2, 2)])
def test_text_of_several_prompts_serves_equal_spans(model, batch, spans):
    """K/V of batch spans * B, item by item, serve one span of the pass each."""
    x = drawn(batch, 16, 2 * spans, 4, 4)
    time = torch.full((batch, 2 * spans), 300.0)
    prompts = drawn(batch * spans, 5, 8, seed=1)
    together = forward(model, x, time, text_kv(model, prompts), Identity())
    for item in range(batch):
        for span in range(spans):
            text = text_kv(model, prompts[item * spans + span][None])
            part = x[item : item + 1, :, 2 * span : 2 * span + 2]
            alone = forward(model, part, time[:1, :2], text, Identity())
            torch.testing.assert_close(together[item, :, 2 * span : 2 * span + 2], alone[0], rtol=1e-5, atol=1e-6)


def test_one_prompt_serves_a_whole_batch(model):
    x, time, prompt = drawn(2, 16, 2, 4, 4), torch.full((2, 2), 300.0), drawn(1, 5, 8, seed=1)
    shared = forward(model, x, time, text_kv(model, prompt), Recorder())
    repeated = forward(model, x, time, text_kv(model, prompt.expand(2, -1, -1)), Recorder())
    torch.testing.assert_close(shared, repeated, rtol=1e-5, atol=1e-6)


def test_the_prompt_matters(model):
    x, time = drawn(1, 16, 2, 4, 4), torch.full((1, 2), 300.0)
    first, second = (forward(model, x, time, text_kv(model, drawn(1, 5, 8, seed=s)), Identity()) for s in (1, 2))
    assert (first - second).abs().max() > 1e-3


def test_the_forward_calls_modules_and_never_reads_a_linears_weight(model):
    class Opaque(torch.nn.Module):
        """A Linear that cannot be looked into, as hosts with quantised or offloaded weights have."""

        def __init__(self, linear):
            super().__init__()
            self.run = linear.forward

        def forward(self, x):
            return self.run(x)

    torch.manual_seed(0)
    wrapped = CausalWan(CONFIG).requires_grad_(False)
    wrapped.load_state_dict(model.state_dict())
    for module in list(wrapped.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Linear | torch.nn.Conv3d):
                setattr(module, name, Opaque(child))
    x, time, prompt = drawn(1, 16, 2, 4, 4), torch.full((1, 2), 300.0), drawn(1, 5, 8)
    ours = forward(model, x, time, text_kv(model, prompt), Recorder())
    assert torch.equal(ours, forward(wrapped, x, time, text_kv(wrapped, prompt), Recorder()))


# -- the network written out once more ---------------------------------------------------------------------------------


def written_out(model: CausalWan, x: torch.Tensor, timestep: float, prompt: torch.Tensor) -> torch.Tensor:
    """Velocity of one frame (1, 16, 1, 2 * rows, 2 * cols) from the tensors alone, in float64, without rotation."""
    p = {name: tensor.double() for name, tensor in model.state_dict().items()}
    dim, heads = CONFIG.dim, CONFIG.num_heads

    def linear(name, y):
        return y @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def layer_norm(y):
        y = y - y.mean(-1, keepdim=True)
        return y / (y.square().mean(-1, keepdim=True) + CONFIG.eps).sqrt()

    def rms_norm(name, y):
        return y / (y.square().mean(-1, keepdim=True) + CONFIG.eps).sqrt() * p[f"{name}.weight"]

    def gelu(y):
        return 0.5 * y * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3)))

    def silu(y):
        return y / (1 + torch.exp(-y))

    def attend(name, y, source):
        q = rms_norm(f"{name}.norm_q", linear(f"{name}.q", y))
        k = rms_norm(f"{name}.norm_k", linear(f"{name}.k", source))
        v = linear(f"{name}.v", source)
        parts = []
        for head in range(heads):
            cut = slice(head * dim // heads, (head + 1) * dim // heads)
            weights = torch.softmax(q[:, cut] @ k[:, cut].T / (dim // heads) ** 0.5, dim=1)
            parts.append(weights @ v[:, cut])
        return linear(f"{name}.o", torch.cat(parts, dim=1))

    rows, cols = x.shape[3] // 2, x.shape[4] // 2
    kernel = p["patch_embedding.weight"].reshape(dim, -1)
    patches = [x[0, :, 0, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].reshape(-1) for r in range(rows) for c in range(cols)]
    y = torch.stack(patches).double() @ kernel.T + p["patch_embedding.bias"]
    half = CONFIG.freq_dim // 2
    angles = timestep * 10_000.0 ** (-torch.arange(half).double() / half)
    e = linear("time_embedding.2", silu(linear("time_embedding.0", torch.cat((angles.cos(), angles.sin())))))
    e0 = linear("time_projection.1", silu(e)).reshape(6, dim)
    context = linear("text_embedding.2", gelu(linear("text_embedding.0", prompt[0].double())))
    for layer in range(CONFIG.num_layers):
        name = f"blocks.{layer}"
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = p[f"{name}.modulation"][0] + e0
        z = layer_norm(y) * (1 + scale) + shift
        y = y + attend(f"{name}.self_attn", z, z) * gate
        normed = layer_norm(y) * p[f"{name}.norm3.weight"] + p[f"{name}.norm3.bias"]
        y = y + attend(f"{name}.cross_attn", normed, context)
        z = layer_norm(y) * (1 + ffn_scale) + ffn_shift
        y = y + linear(f"{name}.ffn.2", gelu(linear(f"{name}.ffn.0", z))) * ffn_gate
    shift, scale = p["head.modulation"][0] + e
    out = linear("head.head", layer_norm(y) * (1 + scale) + shift)  # (tokens, 2 * 2 * 16), channels last
    velocity = torch.empty(16, 2 * rows, 2 * cols, dtype=torch.float64)
    for token, patch in enumerate(out.reshape(-1, 2, 2, 16)):
        r, c = divmod(token, cols)
        velocity[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = patch.permute(2, 0, 1)
    return velocity[None, :, None]


@pytest.mark.parametrize("timestep", [0.0, 625.0, 1000.0])
def test_forward_equals_the_network_written_out_in_float64(model, timestep):
    x, prompt = drawn(1, 16, 1, 4, 6), drawn(1, 5, 8, seed=3)
    ours = forward(model, x, torch.tensor([[timestep]]), text_kv(model, prompt), Recorder())
    torch.testing.assert_close(ours.double(), written_out(model, x, timestep, prompt), rtol=1e-4, atol=1e-5)


# -- time ------------------------------------------------------------------------------------------------------------


def test_sinusoid_puts_cosines_first_and_is_exact_to_float32():
    timesteps = torch.tensor([[0.0, 937.5], [1000.0, 1e6]])
    made = sinusoid(timesteps, 256)
    assert (made.shape, made.dtype) == ((2, 2, 256), torch.float32)
    angles = timesteps.double()[..., None] * 10_000.0 ** (-torch.arange(128).double() / 128)
    torch.testing.assert_close(made[..., :128].double(), angles.cos(), rtol=0, atol=1e-7)
    torch.testing.assert_close(made[..., 128:].double(), angles.sin(), rtol=0, atol=1e-7)


def test_time_embedding_has_one_row_and_six_modulations_per_frame(model):
    e, e0 = time_embedding(model, torch.tensor([[1000.0, 0.0, 500.0]] * 2))
    assert (e.shape, e0.shape) == ((2, 3, 64), (2, 3, 6, 64))
    assert torch.equal(e0.flatten(2), model.time_projection(e))
