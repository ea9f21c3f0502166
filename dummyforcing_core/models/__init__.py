"""Model families, checkpoints and the Wan forward pass."""
