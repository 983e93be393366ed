"""Common wrong answers to the exercises of chapter 6, and what the reader should be told."""

WRONG = [
    ("in_our_words", """
def in_our_words(ce_weight, kl_weight, T):
    return ce_weight * CE() + kl_weight * KD(T=T)
""", "9 times that"),
    ("in_our_words", """
def in_our_words(ce_weight, kl_weight, T):
    return (1 - kl_weight) * CE() + kl_weight * T**2 * KD(T=T)
""", "81 times that"),
    ("in_our_words", """
def in_our_words(ce_weight, kl_weight, T):
    return kl_weight * CE() + ce_weight / T**2 * KD(T=T)
""", "Expected"),
    ("in_our_words", """
def in_our_words(ce_weight, kl_weight, T):
    return ce_weight * CE() + (1 - ce_weight) / T**2 * KD(T=T)
""", "not by a constant factor"),
    ("my_kappa", """
def my_kappa(a, b):
    return (a == b).float().mean()
""", "how often both are right or both wrong"),
    ("my_kappa", """
def my_kappa(a, b):
    p, q = a.double().mean(), b.double().mean()
    return (a == b).double().mean() - p * q - (1 - p) * (1 - q)
""", "Divide by 1 − c0"),
    ("my_kappa", """
def my_kappa(a, b):
    chance = a.double().mean() * b.double().mean()
    return ((a == b).double().mean() - chance) / (1 - chance)
""", "both are wrong"),
    ("my_kappa", """
def my_kappa(a, b):
    rate = (a.double().mean() + b.double().mean()) / 2
    chance = rate**2 + (1 - rate)**2
    return ((a == b).double().mean() - chance) / (1 - chance)
""", "both are wrong"),
    ("my_rollout", """
def my_rollout(maps):
    rollout = torch.eye(maps[0].shape[-1])
    for layer in maps:
        rollout = rollout @ (layer.mean(1) + torch.eye(layer.shape[-1])) / 2
    return rollout
""", "The later layer stands on the left"),
    ("my_rollout", """
def my_rollout(maps):
    rollout = torch.eye(maps[0].shape[-1])
    for layer in maps:
        rollout = layer.mean(1) @ rollout
    return rollout
""", "Where is the identity"),
    ("my_rollout", """
def my_rollout(maps):
    rollout = torch.eye(maps[0].shape[-1])
    for layer in maps:
        rollout = (layer.mean(1) + torch.eye(layer.shape[-1])) @ rollout
    return rollout
""", "rows that sum to 1"),
    ("my_rollout", """
def my_rollout(maps):
    rollout = torch.eye(maps[0].shape[-1])
    for layer in maps:
        rollout = (layer + torch.eye(layer.shape[-1])) / 2 @ rollout
    return rollout
""", "average the heads"),
]
