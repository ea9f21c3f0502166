"""Takes: what is in them, and their video anew."""

from typing import Any

from comfy_api.latest import InputImpl, io

from ..dummyforcing_core.clips.encoding import DEFAULT_CODEC, DEFAULT_CRF, Encoding
from ..dummyforcing_core.rates import OWN_RATE
from .host.files import Destination
from .host.take_read import decode_take, latent_of, report_of, schedule_of, videos_of
from .host.takes import read_take, take_state
from .results import videos_written
from .schema import LOAD, LOOK, RATE_STEP, encoding_inputs, schema

NO_VIDEO = "take {name} has no video in the output folder: Decode Take makes one"


def take_input() -> list[io.Input]:
    """Which take."""
    return [io.String.Input("take", default="", tooltip="The name of a take in output/takes; empty is the newest.")]


class LoadTake(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingLoadTake",
            display_name="Load Take",
            category=LOAD,
            description="What is in a take: its latents, the video that was written of it, its prompts and settings. "
            "Its length is no matter: the latents stay on the disk.",
            search_aliases=["resume", "long latent", "load latent"],
            inputs=[*take_input()],
            outputs=[
                io.Latent.Output(display_name="LATENT"),
                io.Video.Output(display_name="VIDEO", is_output_list=True),
                io.String.Output(display_name="schedule"),
                io.String.Output(display_name="report"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, take: str | None) -> tuple:
        return take_state(take)

    @classmethod
    def execute(cls, take: str) -> io.NodeOutput:
        found = read_take(take)
        latent = latent_of(found)
        videos: list = [InputImpl.VideoFromFile(str(path)) for path in videos_of(found)]
        if not videos:
            from comfy_execution.graph import ExecutionBlocker

            videos = [ExecutionBlocker(NO_VIDEO.format(name=found.folder.name))]
        report = report_of(found)
        return io.NodeOutput(latent, videos, schedule_of(found), report, ui={"text": [report]})


class DecodeTake(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingDecodeTake",
            display_name="Decode Take",
            category=LOOK,
            description="Writes the video of a take anew, in constant memory: with another VAE than it was watched "
            "with, at another rate, in another codec. A take that is unfinished is decoded as far as it is there.",
            search_aliases=["vae decode", "final", "draft"],
            inputs=[
                *take_input(),
                io.Vae.Input("vae"),
                io.Float.Input(
                    "fps",
                    default=0,
                    min=0,
                    max=120,
                    step=RATE_STEP,
                    round=RATE_STEP,
                    tooltip="Of the video; 0 is the take's own. The frames are the same.",
                ),
                io.String.Input(
                    "filename_prefix", default="video/take", advanced=True, tooltip="In the output folder."
                ),
                *encoding_inputs(),
            ],
            outputs=[io.Video.Output(display_name="VIDEO", is_output_list=True)],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, take: str | None, **kwargs: Any) -> tuple:
        return take_state(take)

    @classmethod
    def execute(
        cls,
        take: str,
        vae: Any,
        fps: float,
        filename_prefix: str,
        codec: str = DEFAULT_CODEC,
        crf: int = DEFAULT_CRF,
    ) -> io.NodeOutput:
        to = Destination(OWN_RATE, filename_prefix, Encoding(codec, crf), cls.hidden)
        return videos_written(decode_take(take, vae, fps, to))
