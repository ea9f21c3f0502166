"""Interpolate Video."""

from typing import Any

from comfy_api.latest import io

from ..dummyforcing_core.clips.encoding import DEFAULT_CODEC, DEFAULT_CRF, Encoding
from .host.files import Destination
from .host.stock_models import interpolating
from .host.windows import frames_of, write_windows
from .results import video_written
from .schema import LOOK, InterpolationModelType, encoding_inputs, schema


class InterpolateVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingInterpolateVideo",
            display_name="Interpolate Video",
            category=LOOK,
            description="More frames per second for a video of any length, a few frames at a time: read, interpolated "
            "and written to the output folder in memory that does not grow with the length. Its sound is kept.",
            search_aliases=["rife", "film", "frame interpolation", "60 fps", "smooth"],
            inputs=[
                io.Video.Input("video", tooltip="For example of the Streaming Sampler, or of Load Video."),
                InterpolationModelType.Input("interp_model", tooltip="Of the stock Load Frame Interpolation Model."),
                io.Int.Input(
                    "multiplier", default=2, min=2, max=16, tooltip="Times the frames per second: 16 become 32."
                ),
                io.Int.Input(
                    "window",
                    default=8,
                    min=1,
                    max=1024,
                    advanced=True,
                    tooltip="Frames at once. Fewer take less memory; the video is the same.",
                ),
                io.String.Input(
                    "filename_prefix", default="video/interpolated", advanced=True, tooltip="In the output folder."
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
        interp_model: Any,
        multiplier: int,
        window: int,
        filename_prefix: str,
        codec: str = DEFAULT_CODEC,
        crf: int = DEFAULT_CRF,
    ) -> io.NodeOutput:
        given = frames_of(video)
        work, fps = interpolating(given, interp_model, multiplier)
        file = write_windows(given, work, Destination(fps, filename_prefix, Encoding(codec, crf), cls.hidden), window)
        return video_written(file)
