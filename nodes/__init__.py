"""The ComfyUI nodes. Thin: unpack, one call, pack. Only `host/` touches the host's internals."""
