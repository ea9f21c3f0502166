"""Load Demo Model."""

from comfy_api.latest import io

from .host.demo import demo_model, demo_vae
from .host.demo_text import demo_clip
from .schema import LOAD, schema


class LoadDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingLoadDemoModel",
            display_name="Load Demo Model",
            category=LOAD,
            description="The small model that comes with this pack: coloured shapes that move. Nothing is downloaded, "
            "no GPU is needed. It knows red, yellow, green, cyan, blue, magenta; circle, square, triangle; places, "
            "motions, speeds and the light. Use 64x64 pixels.",
            search_aliases=["example", "tiny", "test", "without download"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="MODEL"),
                io.Clip.Output(display_name="CLIP"),
                io.Vae.Output(display_name="VAE"),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(demo_model(), demo_clip(), demo_vae())
