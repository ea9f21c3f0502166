"""Latents of a long clip as a tensor that lies in a file: memory does not grow with the clip."""

import tempfile
from pathlib import Path

import folder_paths
import numpy as np
import torch
from torch import Tensor

from ...dummyforcing_core.files import make_folder, output_error
from ...dummyforcing_core.geometry import LatentShape


class MappedLatents:
    """Takes a clip's latents chunk by chunk, as a LATENT holds them; `whole` is all of them, (B, C, T, h, w) float32.

    The file lies in the host's temp folder and has no name: it is gone with the last tensor that is mapped from it.
    OutputError if the disk cannot hold it.
    """

    def __init__(self, shape: LatentShape):
        self._frame, self.frames = (shape.batch, shape.channels, shape.height, shape.width), 0
        self._folder = Path(folder_paths.get_temp_directory())
        make_folder(self._folder)
        try:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - it lives as long as its tensors
        except OSError as error:
            raise output_error(self._folder, error) from error

    def add(self, latents: Tensor) -> None:
        """The next latents (B, C, t, h, w)."""
        data = latents.permute(2, 0, 1, 3, 4).float().cpu().contiguous().numpy()
        try:  # written, not mapped: a mapped page that the disk has no room for ends the process
            self._file.write(data.tobytes())
            self._file.flush()
        except OSError as error:
            raise output_error(self._folder, error) from error
        self.frames += latents.shape[2]

    def whole(self) -> Tensor:
        """All that was added. Writing into it changes this tensor only, not the file."""
        array = np.memmap(self._file, np.float32, "c", shape=(self.frames, *self._frame))
        return torch.from_numpy(array).permute(1, 2, 0, 3, 4)
