"""One row per checkpoint family: what a Wan2.1 file does not say about itself. Facts and sources: docs/families.md."""

from ..errors import CheckpointError, shown
from .family import Family
from .sources import DIFFUSION, DISAGREE, LORAS, UNKNOWN, Licence, SourceFile

DEMO = "demo"
ANY_LENGTH = 2**20  # latent frames: positions never leave the window, so no clip is too long

SELF_FORCING = Licence(
    "Apache-2.0 or CC-BY-NC-SA-4.0", DISAGREE, "GitHub LICENSE since 2025-09-11; model card (copy of unknown age)"
)
LONGLIVE = Licence("Apache-2.0 or CC-BY-NC-SA-4.0", DISAGREE, "GitHub v1.0 since 2025-11-01; model card (older?)")
CAUSAL_FORCING = Licence("Apache-2.0", "allowed", "GitHub LICENSE; the model card was not in the copies")
CAUSVID = Licence("CC-BY-NC-SA-4.0 or CC-BY-NC-4.0", "not allowed", "GitHub LICENSE.md; model card")
ROLLING = Licence("License Terms of RollingForcing (academic) or MIT", DISAGREE, "GitHub LICENSE; model card")
KREA = Licence(
    "Apache-2.0 or CC-BY-NC-SA-4.0",
    DISAGREE,
    "model card, as an audit of 2026-08-09 quotes it; GitHub LICENSE.md of the inference code",
)

EMA = "generator_ema"
GENERATOR_FIRST = ("generator", "generator_ema", "model", "state_dict")
MIRROR = "the size, from a mirror's list"
LONGLIVE_REPO = "Efficient-Large-Model/LongLive-1.3B"
FEW_STEP_PROOF = "the loop, against a recorded run of the public code with small weights (golden case M)"
ROLLING_PROOF = (
    "the loop, against a recorded run of the public code with small weights (golden case J), and a dense computation "
    "written from its facts, on small random models"
)
# The chunk-wise and the frame-wise Causal-Forcing files are both called causal_forcing.pt upstream: only their folders
# tell them apart.
FRAMEWISE_HINTS = (
    r"frame[-_ ]?wise[^/]*/[^/]*causal[-_ .]?forcing[^/]*$",
    r"/(?![^/]*self)[^/]*frame[-_ ]?wise[^/]*$",
)
FEW_STEP_HINTS = (r"causal[-_ .]?forcing.*frame[-_ ]?wise", r"frame[-_ ]?wise.*causal[-_ .]?forcing")


def _causal(path: str, holds: str, size: str = "about 5.7 GB", unverified: str = MIRROR) -> SourceFile:
    return SourceFile("zhuhz22/Causal-Forcing", path, DIFFUSION, CAUSAL_FORCING, size, holds, unverified)


ROWS = (
    Family(
        DEMO,
        "Bundled demo model (synthetic shapes)",
        "this repository, demo/",
        size="",
        trained_size=(64, 64),
        window_frames=12,
        sink_frames=3,
        follows_switches=True,
        verified="trained, sampled and measured: demo/README.md",
    ),
    Family(
        "self_forcing",
        "Self-Forcing 1.3B",
        "guandeh17/Self-Forcing",
        hints=(r"self[-_ .]?forcing(?![^/]*frame[-_ ]?wise)[^/]*$",),
        files=(
            SourceFile(
                "gdhe17/Self-Forcing",
                "checkpoints/self_forcing_dmd.pt",
                DIFFUSION,
                SELF_FORCING,
                "about 5.7 GB",
                EMA,
                "the size, from another project's notes",
            ),
        ),
        verified="the loop, against recorded runs of the public code with small weights (golden cases A, B); a "
        "full-size random file in the same container is loaded",
    ),
    Family(
        "causal_forcing",
        "Causal-Forcing 1.3B, chunk-wise",
        "thu-ml/Causal-Forcing",
        hints=(
            r"chunk[-_ ]?wise[^/]*/[^/]*causal[-_ .]?forcing[^/]*$",
            r"/(?=[^/]*causal[-_ .]?forcing)[^/]*chunk[-_ ]?wise[^/]*$",
        ),
        files=(_causal("chunkwise/causal_forcing.pt", "generator"),),
        verified="a random file in the same container is loaded; the loop is Self-Forcing's; a given start, against a "
        "recorded run of the public code with small weights (golden case M)",
    ),
    Family(
        "longlive",
        "LongLive 1.3B",
        "NVlabs/LongLive",
        window_frames=12,
        sink_frames=3,
        recache=True,
        follows_switches=True,
        containers=GENERATOR_FIRST,
        hints=(r"/[^/]*long[-_ ]?live(?![-_ ]?2)[^/]*$",),
        files=(
            SourceFile(LONGLIVE_REPO, "models/longlive_base.pt", DIFFUSION, LONGLIVE, holds="generator"),
            SourceFile(LONGLIVE_REPO, "models/lora.pt", LORAS, LONGLIVE, holds="generator_lora (--lora)"),
        ),
        verified="the loop with its window and prompt switches, global sink or not, against recorded runs of the "
        "public code (golden case C); LoRA merging on small files in PEFT's names",
    ),
    Family(
        "causal_forcing_framewise",
        "Causal-Forcing 1.3B, frame-wise",
        "thu-ml/Causal-Forcing",
        chunk_frames=1,
        hints=FRAMEWISE_HINTS,
        files=(
            _causal("framewise/causal_forcing.pt", EMA),
            SourceFile(
                "TalmajM/causal_forcing_framewise_ComfyUI_repackaged",
                "split_files/diffusion_models/causal_forcing-framewise.safetensors",
                DIFFUSION,
                Licence(UNKNOWN, UNKNOWN, "the card was not in the copies; the original's licence is Apache-2.0"),
                "5.68 GB",
                "bare tensors, ready for ComfyUI",
                "path and size, from another project's model list",
            ),
        ),
        verified="the frame-wise loop, against recorded runs of the public code with small weights (golden case A) and "
        "of the ComfyUI sampler (golden case G)",
    ),
    Family(
        "causal_forcing_2step",
        "Causal-Forcing++ 1.3B, frame-wise, 2 steps",
        "thu-ml/Causal-Forcing",
        chunk_frames=1,
        steps=(1000, 500),
        first_steps=(1000, 750, 500, 250),
        hints=FEW_STEP_HINTS,
        files=(_causal("causal-forcing++/framewise-2step.pt", EMA),),
        verified=FEW_STEP_PROOF,
    ),
    Family(
        "causal_forcing_1step",
        "Causal-Forcing++ 1.3B, frame-wise, 1 step",
        "thu-ml/Causal-Forcing",
        chunk_frames=1,
        steps=(1000,),
        first_steps=(1000, 750, 500, 250),
        hints=FEW_STEP_HINTS,
        files=(_causal("causal-forcing++/framewise-1step.pt", EMA),),
        verified=FEW_STEP_PROOF,
    ),
    Family(
        "causvid",
        "CausVid 1.3B",
        "tianweiy/CausVid",
        steps=(1000, 757, 522),
        shift=8.0,
        warped=False,
        loop="restarts",
        overlap_frames=3,
        containers=GENERATOR_FIRST,
        hints=(r"/[^/]*caus[-_ ]?vid[^/]*$", r"autoregressive_checkpoint[^/]*/model$"),
        files=(
            SourceFile("tianweiy/CausVid", "autoregressive_checkpoint/model.pt", DIFFUSION, CAUSVID, holds="generator"),
        ),
        verified="one clip, and clips that overlap, against recorded runs of the public code with small weights and a "
        "made-up VAE (golden case K); long videos are decoded as one video",
    ),
    Family(
        "krea_realtime",
        "Krea Realtime 14B",
        "krea-ai/realtime-video",
        size="14B",
        steps=(1000, 937.5, 833.333, 625, 0),
        warped=False,
        window_frames=6,
        trained_frames=ANY_LENGTH,
        loop="recompute",
        follows_switches=True,
        hints=(r"/[^/]*krea[-_ .]?realtime[^/]*$",),
        files=(
            SourceFile(
                "krea/krea-realtime-video",
                "krea-realtime-video-14b.safetensors",
                DIFFUSION,
                KREA,
                "28.6 GB",
                unverified="the size, from the same audit",
            ),
        ),
        verified="the loop with a gradual prompt switch, against recorded runs of the public code with small weights "
        "and a made-up VAE (golden case L), and a dense computation written from its facts, on small random models",
    ),
    Family(
        "rolling_forcing",
        "Rolling Forcing 1.3B",
        "TencentARC/RollingForcing",
        steps=(1000, 800, 600, 400, 200),
        window_frames=21,
        sink_frames=3,
        trained_frames=ANY_LENGTH,
        loop="rolling",
        hints=(r"/[^/]*rolling[-_ .]?forcing[^/]*$",),
        files=(
            SourceFile(
                "TencentARC/RollingForcing", "checkpoints/rolling_forcing_dmd.pt", DIFFUSION, ROLLING, holds=EMA
            ),
        ),
        verified=ROLLING_PROOF,
    ),
    Family(
        "causal_forcing_long",
        "Causal-Forcing 1.3B, long video",
        "thu-ml/Causal-Forcing",
        window_frames=21,
        sink_frames=3,
        trained_frames=ANY_LENGTH,
        loop="rolling",
        hints=(r"chunk[-_ ]?wise[^/]*/long[-_ ]?video[^/]*$", r"/[^/]*causal[-_ .]?forcing[^/]*long[^/]*$"),
        files=(_causal("chunkwise/longvideo.pt", EMA, UNKNOWN, ""),),
        verified=ROLLING_PROOF,
    ),
    # a new family comes last: the nodes and --help keep this order
)
FAMILIES: dict[str, Family] = {family.name: family for family in ROWS}


def get_family(name: str) -> Family:
    """The row called `name`; unknown names list the known ones."""
    if name not in FAMILIES:
        raise CheckpointError(f"unknown model family '{shown(name)}'; known families: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]


__all__ = ["ANY_LENGTH", "DEMO", "FAMILIES", "Family", "get_family"]
