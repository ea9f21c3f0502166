"""Compare Clips."""

from typing import Any

from comfy_api.latest import InputImpl, io, ui

from ..dummyforcing_core.clips.encoding import DEFAULT_CODEC, DEFAULT_CRF, Encoding
from .host.comparison import compare
from .host.files import workflow_tags
from .schema import LOOK, encoding_inputs, schema


class CompareClips(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingCompareClips",
            display_name="Compare Clips",
            category=LOOK,
            description="Two videos side by side, and how they differ: moment by moment, in motion, colour and seams.",
            search_aliases=["side by side", "a/b"],
            inputs=[
                io.Video.Input("first", tooltip="Left, and the one that the report compares against."),
                io.Video.Input("second", tooltip="Right."),
                io.String.Input(
                    "filename_prefix", default="video/compare", advanced=True, tooltip="In the output folder."
                ),
                *encoding_inputs(),
            ],
            outputs=[io.Video.Output(display_name="VIDEO"), io.String.Output(display_name="report")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, first: Any, second: Any, filename_prefix: str, codec: str = DEFAULT_CODEC, crf: int = DEFAULT_CRF
    ) -> io.NodeOutput:
        file, report = compare(first, second, filename_prefix, Encoding(codec, crf), workflow_tags(cls.hidden))
        shown = [ui.SavedResult(file.path.name, file.subfolder, io.FolderType.output)]
        return io.NodeOutput(
            InputImpl.VideoFromFile(str(file.path)),
            report,
            ui={**ui.PreviewVideo(shown).as_dict(), "text": [report]},
        )
