"""One row per checkpoint family: what a Wan2.1 file does not say about itself. Facts and sources: docs/families.md."""

from dataclasses import dataclass
from typing import Literal

from ..errors import CheckpointError
from ..schedule import Schedule

ANY_LENGTH = 2**20  # latent frames: positions never leave the window, so no clip is too long


@dataclass(frozen=True)
class Family:
    """How a checkpoint was trained to be sampled. Lengths in latent frames.

    warped -- whether `steps` are warped by `shift`; False: they are timesteps of the shifted table as they stand
    size   -- of the Wan2.1 that it was made of
    loop   -- "chunks": one after the other, each committed to the cache (rollout.py); "rolling": a window of chunks at
              rising noise is denoised together (rolling.py); "recompute": the cache is made anew before every chunk
              from the newest latents (recompute.py); "restarts": clips of the trained length, each of which begins with
              the last `overlap_frames` of the one before (restarts.py)
    """

    name: str
    title: str
    source: str
    chunk_frames: int = 3
    steps: tuple[float, ...] = (1000, 750, 500, 250)
    shift: float = 5.0
    window_frames: int | None = None  # None: every frame of the clip, up to trained_frames
    sink_frames: int = 0
    trained_frames: int = 21
    recache: bool = False  # on a prompt switch, the window is read again with the new prompt
    global_sink: bool = True  # and the sink keeps what the first prompt made of it
    containers: tuple[str, ...] = ("generator_ema", "generator", "model", "state_dict")  # first present wins
    first_steps: tuple[float, ...] | None = None  # of the first generated chunk, where it takes more
    warped: bool = True
    size: str = "1.3B"
    loop: Literal["chunks", "rolling", "recompute", "restarts"] = "chunks"
    overlap_frames: int = 0

    @property
    def schedule(self) -> Schedule:
        if not self.warped:
            return Schedule.from_timesteps(self.steps, self.shift)
        return Schedule.few_step(self.steps, self.shift, self.first_steps)

    @property
    def pass_frames(self) -> int:
        """Latent frames that one denoising call works on."""
        return self.chunk_frames * (len(self.steps) if self.loop == "rolling" else 1)

    @property
    def default_window_frames(self) -> int:
        """The longest context the family was trained on, current chunk included."""
        return self.window_frames or self.trained_frames


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "demo",
            "Bundled demo model (synthetic shapes)",
            "this repository, demo/",
            size="",
            window_frames=12,
            sink_frames=3,
        ),
        Family("self_forcing", "Self-Forcing 1.3B", "guandeh17/Self-Forcing"),
        Family("causal_forcing", "Causal-Forcing 1.3B, chunk-wise", "thu-ml/Causal-Forcing"),
        Family(
            "longlive",
            "LongLive 1.3B",
            "NVlabs/LongLive",
            window_frames=12,
            sink_frames=3,
            recache=True,
            containers=("generator", "generator_ema", "model", "state_dict"),
        ),
        Family("causal_forcing_framewise", "Causal-Forcing 1.3B, frame-wise", "thu-ml/Causal-Forcing", chunk_frames=1),
        Family(
            "causal_forcing_2step",
            "Causal-Forcing++ 1.3B, frame-wise, 2 steps",
            "thu-ml/Causal-Forcing",
            chunk_frames=1,
            steps=(1000, 500),
            first_steps=(1000, 750, 500, 250),
        ),
        Family(
            "causal_forcing_1step",
            "Causal-Forcing++ 1.3B, frame-wise, 1 step",
            "thu-ml/Causal-Forcing",
            chunk_frames=1,
            steps=(1000,),
            first_steps=(1000, 750, 500, 250),
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
            containers=("generator", "generator_ema", "model", "state_dict"),
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
        ),
        Family(
            "causal_forcing_long",
            "Causal-Forcing 1.3B, long video",
            "thu-ml/Causal-Forcing",
            window_frames=21,
            sink_frames=3,
            trained_frames=ANY_LENGTH,
            loop="rolling",
        ),
    )
}


def get_family(name: str) -> Family:
    """The row called `name`; unknown names list the known ones."""
    if name not in FAMILIES:
        raise CheckpointError(f"unknown model family {name!r}; known families: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[name]
