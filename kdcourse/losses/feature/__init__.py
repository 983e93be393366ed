"""Losses on inner tensors: what a layer says."""

__all__: list[str] = []
