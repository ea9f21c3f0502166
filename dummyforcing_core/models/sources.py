"""Where weights come from and under which terms, as their sources state it: read by hand, kept as data.

Read in stored copies of the public pages; a copy may be older than the day it was read. What no copy stated is UNKNOWN,
never a guess. docs/families.md holds the same facts, printed by `models --markdown`.
"""

from dataclasses import dataclass

CHECKED = "2026-11-21"  # the day the copies were read
UNKNOWN = "not stated"
DISAGREE = "sources disagree"
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
    """One file to fetch by hand. folder is ComfyUI's, relative to its root; without it, any folder does.

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
    def place(self) -> str:
        """Where ComfyUI lists it under its name alone, as templates do."""
        return f"{self.folder}/{self.path.rpartition('/')[2]}"

    @property
    def download(self) -> str:
        """The command that fetches it, to be run in ComfyUI's folder."""
        if self.github:
            address = f"https://github.com/{self.repo}/raw/main/{self.path}"
            return f"curl -L --create-dirs -o {self.landing} {address}"
        return f"hf download {self.repo} {self.path} --local-dir {self.folder}"
