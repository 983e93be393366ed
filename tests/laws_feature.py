"""The rows of losses on inner tensors."""

ROWS = []
