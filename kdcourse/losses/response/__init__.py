"""Losses on the output of a network, its logits: T² inside, summed over classes, in nats, computed
in float32 at least, also under autocast."""
