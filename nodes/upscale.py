"""Upscale Video."""

from typing import Any

from comfy_api.latest import io

from ..dummyforcing_core.clips.encoding import DEFAULT_CODEC, DEFAULT_CRF, Encoding
from .host.files import Destination
from .host.stock_models import upscaling
from .host.windows import frames_of, write_windows
from .results import video_written
from .schema import LOOK, encoding_inputs, schema


class UpscaleVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingUpscaleVideo",
            display_name="Upscale Video",
            category=LOOK,
            description="A video of any length through an upscale model, a few frames at a time: read, upscaled and "
            "written to the output folder in memory that does not grow with the length. Its sound is kept.",
            search_aliases=["upscaler", "esrgan", "super resolution", "4k", "1080p"],
            inputs=[
                io.Video.Input("video", tooltip="For example of the Streaming Sampler, or of Load Video."),
                io.UpscaleModel.Input("upscale_model", tooltip="Of the stock Load Upscale Model."),
                io.Int.Input(
                    "shorter_side",
                    default=0,
                    min=0,
                    max=8192,
                    step=2,
                    tooltip="Pixels of the video, for example 1080; the shape is kept. 0 is what the model makes.",
                ),
                io.Int.Input(
                    "window",
                    default=4,
                    min=1,
                    max=1024,
                    advanced=True,
                    tooltip="Frames at once. Fewer take less memory; the video is the same.",
                ),
                io.String.Input(
                    "filename_prefix", default="video/upscaled", advanced=True, tooltip="In the output folder."
                ),
                *encoding_inputs(),
            ],
            outputs=[io.Video.Output(display_name="VIDEO")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        video: Any,
        upscale_model: Any,
        shorter_side: int,
        window: int,
        filename_prefix: str,
        codec: str = DEFAULT_CODEC,
        crf: int = DEFAULT_CRF,
    ) -> io.NodeOutput:
        given = frames_of(video)
        to = Destination(given.fps, filename_prefix, Encoding(codec, crf), cls.hidden)
        file = write_windows(given, upscaling(given, upscale_model, shorter_side), to, window)
        return video_written(file)
