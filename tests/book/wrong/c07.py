"""Common wrong answers to the exercises of chapter 7, and what the reader should be told."""

WRONG = [
    ("my_hard", """
def my_hard(student, teacher):
    return F.cross_entropy(student, teacher.softmax(dim=1))
""", "no gradient for the teacher|not by a constant factor"),
    ("my_hard", """
def my_hard(student, teacher):
    return F.cross_entropy(student, student.argmax(dim=1))
""", "not by a constant factor"),
    ("my_hard", """
def my_hard(student, teacher):
    return F.cross_entropy(student, teacher.argmax(dim=1), reduction="sum")
""", "8 times that, whatever the input"),
    ("my_deit", """
def my_deit(first, second, teacher, labels, T):
    log_q = F.log_softmax(second / T, dim=1)
    log_p = F.log_softmax(teacher.detach() / T, dim=1)
    soft = T**2 * F.kl_div(log_q, log_p, reduction="sum", log_target=True) / second.numel()
    return 0.5 * F.cross_entropy(first, labels) + 0.5 * soft
""", "not by a constant factor"),
    ("my_deit", """
def my_deit(first, second, teacher, labels, T):
    log_q = F.log_softmax(first / T, dim=1)
    log_p = F.log_softmax(teacher.detach() / T, dim=1)
    soft = T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return 0.5 * F.cross_entropy(first, labels) + 0.5 * soft
""", "not by a constant factor"),
    ("my_deit", """
def my_deit(first, second, teacher, labels, T):
    log_q = F.log_softmax(second / T, dim=1)
    log_p = F.log_softmax(teacher / T, dim=1)
    soft = T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return 0.5 * F.cross_entropy(first, labels) + 0.5 * soft
""", "no gradient for the teacher"),
    ("my_deit", """
def my_deit(first, second, teacher, labels, T):
    log_q = F.log_softmax(second / T, dim=1)
    log_p = F.log_softmax(teacher.detach() / T, dim=1)
    soft = T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    return F.cross_entropy(first, labels) + soft
""", "2 times that, whatever the input"),
    ("without_token", """
def without_token(model, x):
    look = kd.taps(model, "head")
    return look(x).taps["head"]
""", "still in the sequence"),
    ("without_token", """
def without_token(model, x):
    return model.vit(model.normalize(x))
""", r"Expected logits \[8, 36\]"),
    ("without_token", """
def without_token(model, x):
    return model.head_dist(model.vit(model.normalize(x)))
""", "Expected the answer of the class head"),
    ("without_token", """
def without_token(model, x):
    patches = model.vit.patch_embed(model.normalize(x))
    tokens = torch.cat([model.vit.cls_token.expand(len(x), -1, -1), patches], 1)
    return model.head(model.vit.norm(model.vit.blocks(tokens))[:, 0])
""", "know their place"),
]
