"""Latents to pixels and back, streamed: Wan's VAE, tiny decoders, the demo world's codec."""
