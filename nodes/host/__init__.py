"""Everything that knows ComfyUI's internals, one idea per file."""
