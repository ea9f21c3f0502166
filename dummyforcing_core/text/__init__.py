"""Prompts to text features: umt5 and the demo world's words."""
