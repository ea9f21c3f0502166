"""Scoring a model's heads, and head profiles as files that people share."""

from typing import Any

from comfy_api.latest import io

from ..dummyforcing_core.errors import DummyForcingError
from ..dummyforcing_core.policies.head_programming import ROLES, assign_roles
from ..dummyforcing_core.policies.profile import HeadProfile
from .host.files import new_profile_path, profile_names, profile_path
from .host.profiling import profile_heads, profile_image
from .schema import MEMORY, HeadProfileType, schema

RATIO = 0.5


def _roles(profile: HeadProfile) -> list[list[str]]:
    layers, heads = profile.scores.mass.shape[:2]
    return [[ROLES[role] for role in row] for row in assign_roles(profile.scores.mass, round(RATIO * layers * heads))]


class ProfileHeads(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingProfileHeads",
            display_name="Profile Heads",
            category=MEMORY,
            description="Samples a few chunks twice and scores every attention head: where it looks (at the first "
            "frame, at the frames before, or at the current chunk only), and how much its output changes without far "
            "frames. The image shows the roles at a dummy ratio of 0.5, and the changes.",
            search_aliases=["head map", "classify heads", "attention heads"],
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("conditioning"),
                io.Latent.Input("latent", tooltip="The size to score at. A profile serves every size."),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True),
                io.Int.Input(
                    "chunks",
                    default=4,
                    min=2,
                    max=64,
                    tooltip="How many chunks are sampled; from the second on they count.",
                ),
            ],
            outputs=[HeadProfileType.Output(display_name="HEAD_PROFILE"), io.Image.Output(display_name="IMAGE")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, conditioning: list, latent: dict, seed: int, chunks: int) -> io.NodeOutput:
        profile = profile_heads(model, conditioning, latent, seed, chunks, cls.hidden.unique_id)
        roles = _roles(profile)
        heads = {"roles": roles, "mass": profile.scores.mass.tolist()}
        if profile.changes is not None:
            heads["change"] = profile.changes.far.tolist()
        picture = profile_image(profile, roles, f"{profile.family}: roles at {RATIO:.0%} dummy heads")
        return io.NodeOutput(profile, picture, ui={"dummyforcing_heads": [heads]})


class SaveHeadProfile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingSaveHeadProfile",
            display_name="Save Head Profile",
            category=MEMORY,
            description="Writes a head profile to models/dummyforcing_profiles.",
            search_aliases=["head profile"],
            inputs=[
                HeadProfileType.Input("head_profile"),
                io.String.Input(
                    "name", default="my_profile", tooltip="File name without .json; an old one is replaced."
                ),
            ],
            outputs=[HeadProfileType.Output(display_name="HEAD_PROFILE")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, head_profile: HeadProfile | str, name: str) -> io.NodeOutput:
        if isinstance(head_profile, str):  # a name that Load Head Profile did not find
            raise DummyForcingError(f"there is nothing to save: head profile {head_profile} is not on this machine")
        path = new_profile_path(name)
        head_profile.write(path, _roles(head_profile))
        return io.NodeOutput(head_profile, ui={"text": [f"saved {path.name}"]})


class LoadHeadProfile(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DummyForcingLoadHeadProfile",
            display_name="Load Head Profile",
            category=MEMORY,
            description="Reads a head profile of models/dummyforcing_profiles. Where the file is missing, e.g. in a "
            "workflow from somebody else, heads are classified online and the report says so.",
            search_aliases=["head profile"],
            inputs=[io.Combo.Input("name", options=profile_names())],
            outputs=[HeadProfileType.Output(display_name="HEAD_PROFILE")],
        )

    @classmethod
    def validate_inputs(cls, name: str) -> bool:
        return True  # a missing file is no error

    @classmethod
    def fingerprint_inputs(cls, name: str) -> float:
        path = profile_path(name)
        return path.stat().st_mtime if path else 0.0

    @classmethod
    def execute(cls, name: str) -> io.NodeOutput:
        path = profile_path(name)
        return io.NodeOutput(HeadProfile.read(path) if path else name)
