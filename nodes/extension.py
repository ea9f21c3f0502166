"""The list of nodes, and what has to happen once when the host loads them."""

from comfy_api.latest import ComfyExtension, io

from .audio import AddAudio
from .compare_clips import CompareClips
from .conditioning import PromptAt, PromptSchedule
from .demo import LoadDemoModel
from .head_profiles import LoadHeadProfile, ProfileHeads, SaveHeadProfile
from .host.files import add_profile_folder
from .host.live import add_routes
from .interpolate import InterpolateVideo
from .load_ar_model import LoadARModel
from .long_memory import ApplyHeadBudget, ApplyHeadForcing
from .policies import ApplyCacheWindow, ApplyDummyForcing, TeaCacheAR
from .sampling import ClipSize, SamplerStreaming, StreamingDecode, StreamingSampler
from .takes import DecodeTake, LoadTake
from .upscale import UpscaleVideo

NODES: list[type[io.ComfyNode]] = [
    LoadARModel,
    LoadDemoModel,
    ClipSize,
    ProfileHeads,
    SaveHeadProfile,
    LoadHeadProfile,
    ApplyDummyForcing,
    ApplyCacheWindow,
    ApplyHeadForcing,
    ApplyHeadBudget,
    TeaCacheAR,
    PromptSchedule,
    PromptAt,
    StreamingSampler,
    SamplerStreaming,
    StreamingDecode,
    LoadTake,
    DecodeTake,
    CompareClips,
    UpscaleVideo,
    InterpolateVideo,
    AddAudio,
]


class DummyForcingExtension(ComfyExtension):
    """What the host asks for."""

    async def on_load(self) -> None:
        add_profile_folder()
        add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
