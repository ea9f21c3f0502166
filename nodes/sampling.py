"""Size, sampling and decoding nodes."""

from typing import Any

import torch
from comfy_api.latest import InputImpl, io, ui

from ..dummyforcing_core.clips.encoding import DEFAULT_CODEC, DEFAULT_CRF, Encoding
from ..dummyforcing_core.geometry import FPS, SIZES
from ..dummyforcing_core.rates import rate_of
from .host.chunks import full_clip_sampler
from .host.clip_job import clip_job
from .host.files import Destination
from .host.live import early_ends
from .host.notes import NO_VAE, check_pixels_unused
from .host.streaming import decode_clip, empty_clip, sample_clip
from .host.takes import NEW_PART, OFF, WHOLE, TakeAsked, settle, take_mark
from .results import videos_written
from .schema import LOOK, RATE_STEP, SAMPLE, encoding_inputs, schema
from .take_inputs import take_inputs

OF_PIXELS = {1: "VIDEO", 3: "remembered"}  # outputs of the Streaming Sampler that take a VAE, by their place
CUSTOM, LANDSCAPE, PORTRAIT = "custom", "landscape", "portrait"
PRESETS = [name.upper() for name in SIZES if not name.endswith("-portrait")]


class ClipSize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingClipSize",
            display_name="Clip Size",
            category=SAMPLE,
            description="The empty canvas: size, length and batch of a clip.",
            search_aliases=["empty latent video", "resolution", "1080p", "duration"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, CUSTOM],
                    default="480P",
                    tooltip="480P is 832x480, 720P 1280x720, 1080P 1920x1080 (1088 rows are made, the middle is kept).",
                ),
                io.Combo.Input("orientation", options=[LANDSCAPE, PORTRAIT], default=LANDSCAPE),
                io.Float.Input("seconds", default=5.0, min=0.1, max=3600.0, step=0.1),
                io.Int.Input(
                    "batch_size", default=1, min=1, max=64, advanced=True, tooltip="Clips at once; seed + 1 each."
                ),
                io.Int.Input("width", default=832, min=16, max=8192, step=2, tooltip="For custom only."),
                io.Int.Input("height", default=480, min=16, max=8192, step=2, tooltip="For custom only."),
            ],
            outputs=[io.Latent.Output(display_name="LATENT")],
        )

    @classmethod
    def execute(
        cls, preset: str, orientation: str, seconds: float, batch_size: int, width: int, height: int
    ) -> io.NodeOutput:
        if preset != CUSTOM:
            width, height = SIZES[preset.lower()]
            if orientation == PORTRAIT:
                width, height = height, width
        return io.NodeOutput(empty_clip((width, height), seconds, batch_size))


class StreamingSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingStreamingSampler",
            display_name="Streaming Sampler",
            category=SAMPLE,
            description="Makes a clip chunk by chunk. With a VAE every chunk is decoded, shown and written to the "
            "output folder as soon as it is done, in memory that does not grow with the clip.",
            search_aliases=["long video", "continue", "extend", "image to video", "autoregressive", "wan"],
            inputs=[
                io.Model.Input("model", tooltip="An autoregressive Wan2.1 model, with or without our settings on it."),
                io.Conditioning.Input("conditioning", tooltip="A prompt, a Prompt Schedule or a chain of Prompt At."),
                io.Latent.Input("latent", tooltip="The empty canvas: size, length and batch. Clip Size makes one."),
                io.Vae.Input("vae", optional=True, tooltip="Decodes every chunk as soon as it is done."),
                io.Latent.Input(
                    "start_latent",
                    optional=True,
                    tooltip="A clip to go on from, or an encoded image (one frame). It counts in the length.",
                ),
                io.Sigmas.Input("sigmas", optional=True, tooltip="Instead of the model family's own steps."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Chunk k of a seed is the same however long the clip is.",
                ),
                io.Float.Input(
                    "fps",
                    default=FPS,
                    min=1,
                    max=120,
                    step=RATE_STEP,
                    round=RATE_STEP,
                    advanced=True,
                    tooltip="Of the video: 24, 23.976 ...; motion is made for 16.",
                ),
                io.String.Input(
                    "filename_prefix", default="video/streaming", advanced=True, tooltip="In the output folder."
                ),
                *encoding_inputs(),
                *take_inputs(),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT"),
                io.Video.Output(display_name="VIDEO", is_output_list=True),
                io.String.Output(display_name="report"),
                io.Image.Output(display_name="remembered"),
                io.String.Output(display_name="take"),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.dynprompt],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        seed: int,
        fps: float | None,
        filename_prefix: str,
        codec: str = DEFAULT_CODEC,
        crf: int = DEFAULT_CRF,
        take: str = OFF,
        take_name: str = "",
        **kwargs: Any,
    ) -> tuple:
        ends = early_ends[seed, None if fps is None else rate_of(fps), filename_prefix, codec, crf]
        return ends, *take_mark(take, take_name)

    @classmethod
    def execute(
        cls,
        model: Any,
        conditioning: list,
        latent: dict,
        seed: int,
        fps: float,
        filename_prefix: str,
        vae: Any = None,
        start_latent: dict | None = None,
        sigmas: torch.Tensor | None = None,
        codec: str = DEFAULT_CODEC,
        crf: int = DEFAULT_CRF,
        take: str = OFF,
        take_name: str = "",
        from_chunk: int = 1,
        take_video: str = WHOLE,
        snapshot_every: int = 0,
    ) -> io.NodeOutput:
        to = Destination(rate_of(fps), filename_prefix, Encoding(codec, crf), cls.hidden)
        if vae is None:
            check_pixels_unused(cls.hidden, OF_PIXELS)
        asked = TakeAsked(take, take_name, from_chunk, take_video == NEW_PART, snapshot_every)
        before = take_mark(take, take_name)
        job = clip_job(model, conditioning, latent, to.fps, vae, start_latent, sigmas)
        made = sample_clip(job, seed, to, asked)
        settle(asked, before)
        videos: list = [InputImpl.VideoFromFile(str(file.path)) for file in made.files]
        remembered: Any = made.remembered
        if not videos:
            from comfy_execution.graph import ExecutionBlocker

            remembered = ExecutionBlocker(NO_VAE)
            videos = [remembered]
        shown = [ui.SavedResult(file.path.name, file.subfolder, io.FolderType.output) for file in made.files]
        display = ui.PreviewVideo(shown).as_dict() if shown else {}
        return io.NodeOutput(
            made.latent, videos, made.report, remembered, made.take, ui={**display, "text": [made.report]}
        )


class SamplerStreaming(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingSampler",
            display_name="Sampler (Streaming)",
            category=SAMPLE,
            description="The Streaming Sampler's engine as a SAMPLER for SamplerCustomAdvanced. "
            "Use a Basic Guider, and the sigmas that the model family was trained on.",
            search_aliases=["samplercustomadvanced", "autoregressive"],
            inputs=[],
            outputs=[io.Sampler.Output(display_name="SAMPLER")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(full_clip_sampler())


class StreamingDecode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingStreamingDecode",
            display_name="Streaming Decode",
            category=LOOK,
            description="Decodes a long latent clip into a video of the output folder, in constant memory.",
            search_aliases=["vae decode", "decode long latent"],
            inputs=[
                io.Latent.Input("latent"),
                io.Vae.Input("vae"),
                io.Float.Input("fps", default=FPS, min=1, max=120, step=RATE_STEP, round=RATE_STEP),
                io.String.Input(
                    "filename_prefix", default="video/streaming", advanced=True, tooltip="In the output folder."
                ),
                *encoding_inputs(),
            ],
            outputs=[io.Video.Output(display_name="VIDEO", is_output_list=True)],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        latent: dict,
        vae: Any,
        fps: float,
        filename_prefix: str,
        codec: str = DEFAULT_CODEC,
        crf: int = DEFAULT_CRF,
    ) -> io.NodeOutput:
        to = Destination(rate_of(fps), filename_prefix, Encoding(codec, crf), cls.hidden)
        return videos_written(decode_clip(latent, vae, to))
