"""Add Audio to Video."""

from typing import Any

from comfy_api.latest import io

from ..dummyforcing_core.clips.encoding import Encoding
from .host.files import Destination
from .host.sound import with_sound
from .host.windows import frames_of
from .results import video_written
from .schema import LOOK, schema


class AddAudio(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingAddAudio",
            display_name="Add Audio to Video",
            category=LOOK,
            description="Lays a sound under a finished video. The video is copied as it is, not decoded, however long "
            "it is; the sound is cut, or goes on in silence, where the video ends.",
            search_aliases=["soundtrack", "music", "voice", "mux", "combine audio"],
            inputs=[
                io.Video.Input("video", tooltip="For example of the Streaming Sampler, or of Load Video."),
                io.Audio.Input("audio", tooltip="Begins with the video. Takes the place of a sound that it has."),
                io.String.Input(
                    "filename_prefix", default="video/sound", advanced=True, tooltip="In the output folder."
                ),
            ],
            outputs=[io.Video.Output(display_name="VIDEO")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, video: Any, audio: dict, filename_prefix: str) -> io.NodeOutput:
        given = frames_of(video)
        file = with_sound(video, given, audio, Destination(given.fps, filename_prefix, Encoding(), cls.hidden))
        return video_written(file)
