"""Losses on relations between samples: distances, angles, neighbourhoods, contrast."""
