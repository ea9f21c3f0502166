"""What a Wan2.1 file does not say about itself: the type of a family's row."""

from dataclasses import dataclass

from ..schedule import Schedule
from .sources import SourceFile


@dataclass(frozen=True)
class Family:
    """One family of checkpoints: how they were trained to be sampled, where they come from, how their files are called.
    Lengths in latent frames.

    source   -- the public code
    hints    -- patterns of file names, searched in "folder/stem" in lower case
    files    -- to fetch, with their licences
    verified -- what this project has checked, in words
    warped   -- whether `steps` are warped by `shift`; False: they are timesteps of the shifted table as they stand
    size     -- of the Wan2.1 that it was made of
    trained_size -- width and height of its training's frames in pixels
    loop     -- a row of loops/table.py
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
    follows_switches: bool = False  # made for prompts that change within a clip
    global_sink: bool = True  # and the sink keeps what the first prompt made of it
    containers: tuple[str, ...] = ("generator_ema", "generator", "model", "state_dict")  # first present wins
    first_steps: tuple[float, ...] | None = None  # of the first generated chunk, where it takes more
    warped: bool = True
    size: str = "1.3B"
    loop: str = "chunks"
    overlap_frames: int = 0  # of the clips that a long video is made of
    trained_size: tuple[int, int] = (832, 480)
    hints: tuple[str, ...] = ()
    files: tuple[SourceFile, ...] = ()
    verified: str = "nothing"

    @property
    def schedule(self) -> Schedule:
        if not self.warped:
            return Schedule.from_timesteps(self.steps, self.shift)
        return Schedule.few_step(self.steps, self.shift, self.first_steps)

    @property
    def default_window_frames(self) -> int:
        """The longest context the family was trained on, current chunk included."""
        return self.window_frames or self.trained_frames
