"""NaN and infinity in a clip's latents, noticed without a wait for the device."""

from types import TracebackType

from ..errors import OutputError
from ..transfer import Arrival, to_host
from .run import ChunkResult


class LatentCheck:
    """Looks at every chunk of a clip. The answer is read one chunk later, when the device has long had it.

        with LatentCheck() as check:
            for chunk in sample(run):
                check.add(chunk)
                ...                     # an OutputError in here gives way to what the latents say

    OutputError, from `add` and from the end of the block, for the first chunk that holds NaN or infinity.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, Arrival] | None = None

    def add(self, chunk: ChunkResult) -> None:
        """Asks about this chunk, and reads what was asked about the one before."""
        self._read()
        self._pending = chunk.span.chunk, to_host(chunk.latent.isfinite().all())

    def _read(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None and not bool(pending[1]()):
            raise OutputError(
                f"chunk {pending[0] + 1} came out as NaN or infinity; check that the checkpoint is of the family that "
                "the report names, and try another dtype (bf16 or fp32)"
            )

    def __enter__(self) -> "LatentCheck":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, OutputError):
            self._read()
