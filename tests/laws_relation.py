"""The rows of losses on relations between samples."""

ROWS = []
