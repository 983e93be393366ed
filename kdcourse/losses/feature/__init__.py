"""Losses on inner tensors: maps, tokens, vectors."""
