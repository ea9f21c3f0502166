"""Dummy Forcing for ComfyUI: this file is the host's entry and does nothing else."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """The extension with all nodes; imported late, so that a failure is one logged line of the host's."""
    from .nodes.extension import DummyForcingExtension

    return DummyForcingExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
