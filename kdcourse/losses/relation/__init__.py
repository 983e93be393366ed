"""Losses on relations between samples: distances, angles, neighbourhoods."""

__all__: list[str] = []
