"""Wan2.1's network and all that a checkpoint file says or does not say about itself."""
