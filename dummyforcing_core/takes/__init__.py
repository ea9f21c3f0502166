"""Clips on disk that cannot be lost: everything that is needed to go on from any chunk, bit for bit."""
