"""Load AR Model."""

from comfy_api.latest import io

from ..dummyforcing_core.models.families import DEMO, FAMILIES
from .host.files import model_names, model_path
from .host.loader import WEIGHT_DTYPES, load_ar_model
from .schema import LOAD, schema

AUTO, NONE = "auto", "none"


class LoadARModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingLoadARModel",
            display_name="Load AR Model",
            category=LOAD,
            description="Loads an autoregressive Wan2.1 checkpoint (Self-Forcing, LongLive, Causal-Forcing, ...) from "
            "models/diffusion_models: .safetensors, or .pt as the authors publish it.",
            search_aliases=[
                "wan",
                "self-forcing",
                "longlive",
                "causal forcing",
                "causvid",
                "rolling forcing",
                "krea",
                "streaming",
            ],
            inputs=[
                io.Combo.Input(
                    "model", options=model_names("diffusion_models"), tooltip="From models/diffusion_models."
                ),
                io.Combo.Input(
                    "family",
                    options=[AUTO, *(name for name in FAMILIES if name != DEMO)],
                    default=AUTO,
                    tooltip="How the checkpoint was trained. auto: by its metadata or its name; the report says which.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    advanced=True,
                    tooltip="fp8_e4m3fn halves the memory of the weights; fast also computes in fp8, if the card can.",
                ),
                io.Combo.Input(
                    "lora",
                    options=[NONE, *model_names("loras")],
                    default=NONE,
                    tooltip="An adapter of the checkpoint, such as LongLive's lora.pt, in PEFT's, kohya's, diffusers' "
                    "or ComfyUI's names. One that does not fit is refused; the stock LoRA loader would leave it out.",
                ),
                io.Float.Input(
                    "lora_strength", default=1.0, min=-10.0, max=10.0, step=0.05, advanced=True, tooltip="Its weight."
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL")],
        )

    @classmethod
    def execute(cls, model: str, family: str, weight_dtype: str, lora: str, lora_strength: float) -> io.NodeOutput:
        adapter = None if lora == NONE or lora_strength == 0 else model_path("loras", lora)
        wanted = None if family == AUTO else family
        loaded = load_ar_model(model_path("diffusion_models", model), wanted, weight_dtype, adapter, lora_strength)
        return io.NodeOutput(loaded)
