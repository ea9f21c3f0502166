"""Dummy Forcing core: autoregressive video diffusion with one KV-cache policy per attention head.

Needs torch, numpy, einops and safetensors; knows nothing of ComfyUI. See docs/architecture.md.
"""

__version__ = "0.1.0"
