"""Prompts over time as CONDITIONING."""

from typing import Any

from comfy_api.latest import io

from .host.prompts import joined, scheduled
from .schema import PROMPTS, schema

# In words that the demo model knows, too.
EXAMPLE = (
    "0:00 | a red ball on the left moving slowly up and down and a blue box on the right\n"
    "0:03 | a red ball moving fast from side to side and a blue box on the right, the lights go out"
)


class PromptSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingPromptSchedule",
            display_name="Prompt Schedule",
            category=PROMPTS,
            description="Prompts over time: one line per prompt, `minutes:seconds | prompt`. "
            "The next chunk after that time follows the new prompt.",
            search_aliases=["prompt travel", "interactive", "story"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder (umt5-xxl for Wan2.1)."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default=EXAMPLE,
                    tooltip="The first line starts at 0:00. A line after the begin of the last chunk has no effect. "
                    "Lines that start with # do not count.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="CONDITIONING")],
        )

    @classmethod
    def execute(cls, clip: Any, text: str) -> io.NodeOutput:
        return io.NodeOutput(scheduled(clip, text))


class PromptAt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingPromptAt",
            display_name="Prompt At",
            category=PROMPTS,
            description="Adds a prompt that takes over at a given second. Chain as many as the story needs.",
            search_aliases=["prompt travel", "interactive", "story"],
            inputs=[
                io.Conditioning.Input("previous", tooltip="The prompts before: a text encoder or another Prompt At."),
                io.Conditioning.Input("next", tooltip="The prompt that takes over."),
                io.Float.Input(
                    "seconds",
                    default=2.5,
                    min=0.1,
                    max=36000.0,
                    step=0.1,
                    tooltip="When it takes over, with the next chunk; no effect after the begin of the last one.",
                ),
            ],
            outputs=[io.Conditioning.Output(display_name="CONDITIONING")],
        )

    @classmethod
    def execute(cls, previous: list, next: list, seconds: float) -> io.NodeOutput:
        return io.NodeOutput(joined(previous, next, seconds))
