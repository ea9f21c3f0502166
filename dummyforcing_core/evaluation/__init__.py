"""What policies cost and keep: teacher forcing, head profiles, comparisons, VBench."""
