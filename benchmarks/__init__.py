"""Measurements of the engine; each script prints its conditions first and one JSON document last."""
