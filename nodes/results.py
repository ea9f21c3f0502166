"""Written videos as outputs of a node, and as what the page shows in it."""

from collections.abc import Sequence

from comfy_api.latest import InputImpl, io, ui

from .host.files import OutputFile


def videos_written(files: Sequence[OutputFile]) -> io.NodeOutput:
    """For an output that is a list, one per batch item."""
    return io.NodeOutput([InputImpl.VideoFromFile(str(file.path)) for file in files], ui=_preview(files))


def video_written(file: OutputFile) -> io.NodeOutput:
    """For an output that is one."""
    return io.NodeOutput(InputImpl.VideoFromFile(str(file.path)), ui=_preview([file]))


def _preview(files: Sequence[OutputFile]) -> ui.PreviewVideo:
    return ui.PreviewVideo([ui.SavedResult(one.path.name, one.subfolder, io.FolderType.output) for one in files])
