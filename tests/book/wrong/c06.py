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
    ("my_attention", """
def my_attention(qkv, heads):
    q, k, _ = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(2, 3)).softmax(-1)
""", "divided by √d"),
    ("my_attention", """
def my_attention(qkv, heads):
    q, k, _ = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(2)
""", "every row to sum to 1"),
    ("my_attention", """
def my_attention(qkv, heads):
    q, k, _ = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return (k @ q.transpose(2, 3) / q.shape[3] ** 0.5).softmax(-1)
""", "Which numbers are queries"),
    ("my_attention", """
def my_attention(qkv, heads):
    q, k, _ = qkv.chunk(3, 2)
    return (q @ k.transpose(1, 2) / q.shape[2] ** 0.5).softmax(-1)
""", r"Expected \[B, heads, N, N\]"),
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
    ("two_teachers", """
def two_teachers():
    both = kd.Cached(kd.Ensemble(list(teachers.values())), data)
    arms = {
        "ViT": arm("convnet", "ViT"),
        "both": lambda seed: kd.Distiller(convnet(seed), both, objective["ResNet"]),
    }
    short = recipe("convnet", rate["convnet", "ViT"])
    longer = kd.Recipe(epochs=60, lr=short.lr, validate_every=5)
    return kd.compare(arms, data, {"ViT": short, "both": longer}, seeds=range(5))
""", "the same budget for 'both'"),
]
