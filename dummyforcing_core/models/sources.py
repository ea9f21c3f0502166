"""Where each family's weights come from and under which terms, as their sources state it. Read by hand, kept as data.

Read in stored copies of the public pages; a copy may be older than the day it was read. What no copy stated is UNKNOWN,
never a guess. docs/families.md holds the same facts, printed by `models --markdown`.
"""

from dataclasses import dataclass

from ..errors import CheckpointError

CHECKED = "2026-11-21"  # the day the copies were read
UNKNOWN = "not stated"
DIFFUSION, LORAS, TEXT = "models/diffusion_models", "models/loras", "models/text_encoders"
VAE, TINY = "models/vae", "models/vae_approx"


@dataclass(frozen=True)
class Licence:
    """Terms of the weights. commercial: "allowed", "not allowed", "sources disagree" or "not stated"."""

    name: str
    commercial: str
    stated_in: str


@dataclass(frozen=True)
class SourceFile:
    """One file to fetch by hand. folder is ComfyUI's, relative to its root; without a host, any folder does.

    unverified: the facts that the source itself was not seen to state. github: not on the Hugging Face hub.
    """

    repo: str
    path: str
    folder: str
    licence: Licence
    size: str = UNKNOWN
    holds: str = "bare tensors"
    unverified: str = ""
    github: bool = False

    @property
    def landing(self) -> str:
        """Where the file lies after `download`; the hub's command keeps the path inside the repository."""
        return f"{self.folder}/{self.path.rpartition('/')[2] if self.github else self.path}"

    @property
    def download(self) -> str:
        """The command that fetches it, to be run in ComfyUI's folder."""
        if self.github:
            address = f"https://github.com/{self.repo}/raw/main/{self.path}"
            return f"curl -L --create-dirs -o {self.landing} {address}"
        return f"hf download {self.repo} {self.path} --local-dir {self.folder}"


@dataclass(frozen=True)
class Source:
    """The files of one family. `missing` says what the engine lacks to run it; empty: the family can be run.

    sampling: how it is sampled, for what is no row of families.py. verified: what this project has checked.
    """

    name: str
    title: str
    files: tuple[SourceFile, ...]
    verified: str
    sampling: str = ""
    missing: str = ""


DISAGREE = "sources disagree"
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
REPACKAGED = Licence(UNKNOWN, UNKNOWN, "no licence in the copies of the repackaged card; Wan2.1 itself is Apache-2.0")
TAEHV = Licence("MIT", "allowed", "GitHub LICENSE")
LIGHTX2V = Licence("Apache-2.0", "allowed", "model card")

EMA = "generator_ema"
COMFY = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"
FIRST_CHUNK = "the steps of the first and of later chunks, counted in tests; no recorded run of the public code"
ROLLING_PROOF = (
    "the loop (passes, noise levels, frames and positions seen), against a dense computation written from the public "
    "code's facts, on small random models"
)
LOADING = "a random file in the same container is loaded"


MIRROR = "the size, from a mirror's list"


def _causal(path: str, holds: str, size: str = "about 5.7 GB", unverified: str = MIRROR) -> SourceFile:
    return SourceFile("zhuhz22/Causal-Forcing", path, DIFFUSION, CAUSAL_FORCING, size, holds, unverified)


FAMILY_SOURCES = (
    Source("demo", "Bundled demo model", (), "trained, sampled and measured: demo/README.md"),
    Source(
        "self_forcing",
        "Self-Forcing 1.3B",
        (
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
        "the loop, against recorded runs of the public code with small weights (golden cases A, B); a full-size random "
        "file in the same container is loaded",
    ),
    Source(
        "longlive",
        "LongLive 1.3B",
        (
            SourceFile(
                "Efficient-Large-Model/LongLive-1.3B", "models/longlive_base.pt", DIFFUSION, LONGLIVE, holds="generator"
            ),
            SourceFile(
                "Efficient-Large-Model/LongLive-1.3B",
                "models/lora.pt",
                LORAS,
                LONGLIVE,
                holds="generator_lora (--lora)",
            ),
        ),
        "the loop with its window and prompt switches, global sink or not, against recorded runs of the public code "
        "(golden case C); LoRA merging on small files in PEFT's names",
    ),
    Source(
        "causal_forcing",
        "Causal-Forcing 1.3B, chunk-wise",
        (_causal("chunkwise/causal_forcing.pt", "generator"),),
        f"{LOADING}; the loop is Self-Forcing's",
    ),
    Source(
        "causal_forcing_framewise",
        "Causal-Forcing 1.3B, frame-wise",
        (
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
        "the frame-wise loop, against the recorded ComfyUI sampler (golden case G)",
    ),
    Source(
        "causal_forcing_2step",
        "Causal-Forcing++ 1.3B, frame-wise, 2 steps",
        (_causal("causal-forcing++/framewise-2step.pt", EMA),),
        FIRST_CHUNK,
    ),
    Source(
        "causal_forcing_1step",
        "Causal-Forcing++ 1.3B, frame-wise, 1 step",
        (_causal("causal-forcing++/framewise-1step.pt", EMA),),
        FIRST_CHUNK,
    ),
    Source(
        "causal_forcing_long",
        "Causal-Forcing 1.3B, long video",
        (_causal("chunkwise/longvideo.pt", EMA, UNKNOWN, ""),),
        ROLLING_PROOF,
    ),
    Source(
        "rolling_forcing",
        "Rolling Forcing 1.3B",
        (SourceFile("TencentARC/RollingForcing", "checkpoints/rolling_forcing_dmd.pt", DIFFUSION, ROLLING, holds=EMA),),
        ROLLING_PROOF,
    ),
    Source(
        "causvid",
        "CausVid 1.3B",
        (SourceFile("tianweiy/CausVid", "autoregressive_checkpoint/model.pt", DIFFUSION, CAUSVID, holds="generator"),),
        "noise levels, timesteps and frames seen, against a table of facts from the public code; long videos as clips "
        "that overlap, but decoded as one video",
    ),
    Source(
        "krea_realtime",
        "Krea Realtime 14B",
        (
            SourceFile(
                "krea/krea-realtime-video",
                "krea-realtime-video-14b.safetensors",
                DIFFUSION,
                KREA,
                "28.6 GB",
                unverified="the size, from the same audit",
            ),
        ),
        "the loop, against a dense computation written from the public code's facts, on small random models",
    ),
    Source(
        "longlive_2",
        "LongLive 2.0 5B",
        (),
        "nothing",
        "not looked up",
        "another base model: Wan2.2 5B has 48 latent channels and a VAE of its own, this project is for Wan2.1",
    ),
)

SHARED = Source(
    "shared",
    "Text encoder, VAE and tiny decoders of Wan2.1; every family but demo needs an encoder and one decoder",
    (
        SourceFile(COMFY, "split_files/text_encoders/umt5_xxl_fp16.safetensors", TEXT, REPACKAGED, "11.4 GB"),
        SourceFile(
            COMFY, "split_files/text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors", TEXT, REPACKAGED, "6.74 GB"
        ),
        SourceFile(COMFY, "split_files/vae/wan_2.1_vae.safetensors", VAE, REPACKAGED, "254 MB"),
        SourceFile(
            "madebyollin/taehv",
            "safetensors/taew2_1.safetensors",
            TINY,
            TAEHV,
            "22.6 MB",
            unverified="the size, from a mirror's page",
            github=True,
        ),
        SourceFile("lightx2v/Autoencoders", "lighttaew2_1.safetensors", TINY, LIGHTX2V, "45.3 MB"),
    ),
    "VAE: recorded decodes (golden case H), a random file in the official layout; others: no real file was run here",
)
SOURCES: dict[str, Source] = {source.name: source for source in (*FAMILY_SOURCES, SHARED)}


def get_source(name: str) -> Source:
    """The entry called `name`; unknown names list the known ones."""
    if name not in SOURCES:
        raise CheckpointError(f"unknown model family {name!r}; known: {', '.join(sorted(SOURCES))}")
    return SOURCES[name]
