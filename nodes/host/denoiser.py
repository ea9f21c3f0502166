"""The host's model call as the core's denoiser.

The call goes through the host's guider, so LoRA, hooks, fp8, offload and wrappers of other nodes stay in force; a
DIFFUSION_MODEL wrapper then answers it with the core's forward over the host's own modules.
"""

from collections.abc import Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.geometry import PATCH, SPATIAL, LatentShape
from ...dummyforcing_core.kv.attention import AttentionFn
from ...dummyforcing_core.kv.interruptible import interruptible
from ...dummyforcing_core.models.denoiser import ModelGeometry, Step, WanDenoiser
from ...dummyforcing_core.models.families import Family
from ...dummyforcing_core.models.sizes import size_note
from ...dummyforcing_core.schedule import x0_from_velocity
from ...dummyforcing_core.transfer import to_device
from .settings import KEY, Wrappers


class HostWan:
    """The host's Wan modules under the names the core's forward calls."""

    def __init__(self, model: Any):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def patch_embedding(self, x: Tensor) -> Tensor:
        """The host keeps this layer in float32."""
        return self._model.patch_embedding(x.float()).to(x.dtype)


def wan_of(model: Any) -> Any:
    """The diffusion model of a MODEL; DummyForcingError unless it is a Wan2.1 text-to-video transformer."""
    wan = model.model.diffusion_model
    wan = getattr(wan, "_orig_mod", wan)
    kind = type(wan).__name__
    if kind not in ("WanModel", "CausalWanModel") or getattr(wan, "model_type", "") != "t2v" or wan.in_dim != 16:
        raise DummyForcingError(
            f"this MODEL is a {kind} with {getattr(wan, 'in_dim', '?')} input channels; "
            "autoregressive sampling needs a Wan2.1 text-to-video model: load one with Load AR Model"
        )
    return wan


def geometry_of(model: Any) -> ModelGeometry:
    """What a cache must know of a MODEL; works before its weights are on the device."""
    wan = wan_of(model)
    dtype = model.model.get_dtype_inference()
    return ModelGeometry(len(wan.blocks), wan.num_heads, wan.dim // wan.num_heads, wan.in_dim, model.load_device, dtype)


def check_shape(shape: LatentShape, family: Family) -> None:
    """DummyForcingError unless a Wan2.1 model of this family can sample this shape."""
    if shape.channels != 16:
        raise DummyForcingError(
            f"expected a latent with the 16 channels of Wan2.1, got {shape.channels}, which is another model's; "
            "connect the latent of Clip Size"
        )
    if shape.height % PATCH or shape.width % PATCH:
        # How many pixels were asked for is not known here: the node that made the latent has rounded them down.
        raise DummyForcingError(
            f"expected a latent of even sides (of pixels, multiples of {SPATIAL * PATCH}), got {shape.width} columns "
            f"and {shape.height} rows; make it anew, of e.g. 832x480 pixels"
        )
    size_note(shape.width * SPATIAL, shape.height * SPATIAL, family)


def host_attention(transformer_options: Mapping[str, Any]) -> AttentionFn:
    """The attention that the user chose for the host (its command line, or an override on the MODEL); may be left."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = q.shape[2]
        out = optimized_attention(
            q.flatten(2), k.flatten(2), v.flatten(2), heads=heads, transformer_options=transformer_options
        )
        return out.unflatten(-1, (heads, -1))

    return interruptible(attend, comfy.model_management.throw_exception_if_processing_interrupted)


def check_cfg(guider: Any) -> None:
    """DummyForcingError if a guider mixes two predictions; nodes on the MODEL may have it do so for some steps only."""
    cfg = getattr(guider, "cfg", 1.0)
    if cfg != 1.0:
        raise DummyForcingError(
            f"expected cfg 1, got {cfg:g}; few-step autoregressive models are sampled without guidance: set cfg to 1, "
            "or use a Basic Guider"
        )


class HostDenoiser:
    """Predicts the clean chunk through a guider; made for one run, dead when it ends.

    conditions -- the guider's positive condition for every text tensor of the prompt schedule, by id()
    """

    def __init__(self, guider: Any, model_options: dict, seed: int, conditions: Mapping[int, Any]):
        self.geometry = geometry_of(guider.model_patcher)
        self._guider, self._seed, self._conditions = guider, seed, conditions
        self._core = WanDenoiser(HostWan(wan_of(guider.model_patcher)), self.geometry)
        self._options = comfy.model_patcher.create_model_options_clone(model_options)
        comfy.patcher_extension.add_wrapper_with_key(
            Wrappers.DIFFUSION_MODEL, KEY, self._run, self._options, is_model_options=True
        )
        self._call: tuple[Tensor, Tensor, Step] | None = None
        self._answered = False

    def __call__(self, x: Tensor, sigma: Tensor, context: Tensor, step: Step) -> Tensor | None:
        """x0 of x (B, C, T, h, w) at noise levels sigma (B, T); None if the step's output is not read."""
        mixed = bool((sigma != sigma[:, :1]).any())
        level = torch.ones_like(sigma[:, 0]) if mixed else sigma[:, 0]  # the host knows one level per clip
        # No negative: a patch that turns off the host's shortcut for cfg 1 would have it read into the same cache.
        # A window of chunks under two prompts brings features of its own; the call is the host's all the same.
        condition = self._conditions.get(id(context)) or next(iter(self._conditions.values()))
        self._guider.conds = {"positive": [condition]}
        self._call, self._answered = (sigma, context, step), False
        try:
            x0 = self._guider(x, to_device(level.to(x.dtype), x.device), model_options=self._options, seed=self._seed)
        finally:
            self._call = None
        if not self._answered:
            raise DummyForcingError(
                "another node on this MODEL skips steps in the model's place, which leaves holes in a stream's memory; "
                "take it out and use TeaCache (AR)"
            )
        if not step.output:
            return None
        return x0_from_velocity(x, x - x0, sigma) if mixed else x0

    def time_signal(self, timestep: float, modulation: bool) -> Tensor:
        return self._core.time_signal(timestep, modulation)

    def project(self, layer: int, x: Tensor) -> Tensor:
        return self._core.project(layer, x)

    @torch.compiler.disable
    def _run(self, executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._call is None:
            return executor(x, *args, **kwargs)
        if self._answered:
            raise DummyForcingError(
                "another node on this MODEL asks for a second prediction in a step (guidance by attention or by "
                "skipped layers), which a stream cannot make; take it out"
            )
        check_cfg(self._guider)
        self._answered = True
        sigma, context, step = self._call
        velocity = self._core.velocity(x, sigma, context, step)
        return torch.zeros_like(x) if velocity is None else velocity
