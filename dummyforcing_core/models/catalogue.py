"""All that can be fetched: every family's files, what they share, and what cannot be run."""

from dataclasses import dataclass

from ..errors import CheckpointError, shown
from .families import FAMILIES
from .sources import TEXT, TINY, UNKNOWN, VAE, Licence, SourceFile

REPACKAGED = Licence(UNKNOWN, UNKNOWN, "no licence in the copies of the repackaged card; Wan2.1 itself is Apache-2.0")
TAEHV = Licence("MIT", "allowed", "GitHub LICENSE")
LIGHTX2V = Licence("Apache-2.0", "allowed", "model card")

COMFY = "Comfy-Org/Wan_2.1_ComfyUI_repackaged"


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


NOT_RUN = Source(
    "longlive_2",
    "LongLive 2.0 5B",
    (),
    "nothing",
    "not looked up",
    "another base model: Wan2.2 5B has 48 latent channels and a VAE of its own, this project is for Wan2.1",
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
FAMILY_SOURCES = (
    *(Source(family.name, family.title, family.files, family.verified) for family in FAMILIES.values()),
    NOT_RUN,
)
SOURCES: dict[str, Source] = {source.name: source for source in (*FAMILY_SOURCES, SHARED)}


def get_source(name: str) -> Source:
    """The entry called `name`; unknown names list the known ones."""
    if name not in SOURCES:
        raise CheckpointError(f"unknown model family '{shown(name)}'; known: {', '.join(sorted(SOURCES))}")
    return SOURCES[name]
