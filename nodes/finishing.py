"""What is done with a finished video: made larger, given a sound."""

from typing import Any

from comfy_api.latest import io

from ..dummyforcing_core.clips.encoding import DEFAULT_CODEC, DEFAULT_CRF, Encoding
from ..dummyforcing_core.rates import OWN_RATE
from .host.files import Destination
from .host.sound import add_sound_to
from .host.upscaling import AS_MODEL, SHORT_SIDES, upscale
from .results import video_written
from .schema import LOOK, encoding_inputs, schema


class UpscaleVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingUpscaleVideo",
            display_name="Upscale Video",
            category=LOOK,
            description="A video through an upscale model, a few frames at a time, written as it goes: minutes take no "
            "more memory than seconds. Its sound comes along.",
            search_aliases=["upscale", "super resolution", "esrgan", "1080p", "4k"],
            inputs=[
                io.Video.Input("video", tooltip="Any video; frames are read from its file."),
                io.UpscaleModel.Input("upscale_model", tooltip="Of Load Upscale Model."),
                io.Combo.Input(
                    "size",
                    options=[AS_MODEL, *SHORT_SIDES],
                    default=AS_MODEL,
                    tooltip="The short side of the video that is written; the picture keeps its shape.",
                ),
                io.Int.Input("window", default=4, min=1, max=256, advanced=True, tooltip="Frames in memory at a time."),
                io.String.Input(
                    "filename_prefix", default="video/upscaled", advanced=True, tooltip="In the output folder."
                ),
                *encoding_inputs(),
            ],
            outputs=[io.Video.Output(display_name="VIDEO")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.dynprompt],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        video: Any,
        upscale_model: Any,
        size: str,
        window: int,
        filename_prefix: str,
        codec: str = DEFAULT_CODEC,
        crf: int = DEFAULT_CRF,
    ) -> io.NodeOutput:
        to = Destination(OWN_RATE, filename_prefix, Encoding(codec, crf), cls.hidden)
        return video_written(upscale(video, upscale_model, size, window, to))


class AddAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingAddAudio",
            display_name="Add Audio to Video",
            category=LOOK,
            description="Lays a sound under a finished video. The picture is copied as it is coded: its frames are "
            "not decoded, and the length is no matter.",
            search_aliases=["sound", "music", "soundtrack", "mux"],
            inputs=[
                io.Video.Input("video", tooltip="A finished video, as the Streaming Sampler writes them."),
                io.Audio.Input("audio", tooltip="What is longer than the video is cut."),
                io.String.Input(
                    "filename_prefix", default="video/sounding", advanced=True, tooltip="In the output folder."
                ),
            ],
            outputs=[io.Video.Output(display_name="VIDEO")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, video: Any, audio: dict, filename_prefix: str) -> io.NodeOutput:
        return video_written(add_sound_to(video, audio, filename_prefix))
