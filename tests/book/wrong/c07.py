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
    ("mixed_hard", """
def mixed_hard(first, second, teacher, y, y_other, share):
    labels = (share * F.cross_entropy(first, y_other)
              + (1 - share) * F.cross_entropy(first, y))
    return 0.5 * labels + 0.5 * F.cross_entropy(second, teacher.argmax(1))
""", "have changed places"),
    ("mixed_hard", """
def mixed_hard(first, second, teacher, y, y_other, share):
    labels = F.cross_entropy(first, y)
    return 0.5 * labels + 0.5 * F.cross_entropy(second, teacher.argmax(1))
""", "The labels go to the first head, mixed"),
    ("mixed_hard", """
def mixed_hard(first, second, teacher, y, y_other, share):
    labels = (share * F.cross_entropy(first, y)
              + (1 - share) * F.cross_entropy(first, y_other))
    return 0.5 * labels + 0.5 * F.cross_entropy(first, teacher.argmax(1))
""", "the teacher's one choice to the second"),
    ("without_token", """
def without_token(model, x):
    return model.both(x)[0]
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
""", "tokens with their place"),
]
