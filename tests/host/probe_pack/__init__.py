"""A node pack of the tests' own: it shows that the harness sees nodes, events, previews, files and page extensions."""

from .probe_nodes import ProbeExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ProbeExtension:
    return ProbeExtension()
