"""Common wrong answers to the exercises of chapter 4, and what the reader should be told."""

WRONG = [
    ("my_attention_transfer", """
def my_attention_transfer(student, teacher):
    def direction(maps):
        return maps.square().sum(1).flatten(1)
    return (direction(student) - direction(teacher.detach())).norm(dim=1).mean()
""", "not by a constant factor"),
    ("my_attention_transfer", """
def my_attention_transfer(student, teacher):
    def direction(maps):
        Q = maps.square().sum(1).flatten(1)
        return Q / Q.norm(dim=1, keepdim=True)
    return (direction(student) - direction(teacher)).norm(dim=1).mean()
""", "no gradient for the teacher"),
    ("my_attention_transfer", """
def my_attention_transfer(student, teacher):
    def direction(maps):
        Q = maps.square().sum(1).flatten(1)
        return Q / Q.norm(dim=1, keepdim=True)
    return (direction(student) - direction(teacher.detach())).norm(dim=1)
""", "average over the samples"),
    ("my_fsp", """
def my_fsp(student, teacher):
    def flow(first, last):
        places = first.shape[2] * first.shape[3]
        return first.flatten(2) @ last.flatten(2).transpose(1, 2) / places
    difference = flow(*student) - flow(*(x.detach() for x in teacher))
    return difference.square().mean()
""", "averaged where the sum does"),
    ("my_fsp", """
def my_fsp(student, teacher):
    def flow(first, last):
        return first.flatten(2) @ last.flatten(2).transpose(1, 2)
    difference = flow(*student) - flow(*(x.detach() for x in teacher))
    return difference.square().sum((1, 2)).mean()
""", "not by a constant factor"),
    ("before_or_behind", """
def before_or_behind():
    early = Hint("3", before[0], projection="1x1", variant="mean")
    arms = {"behind": taught(terms["Hint"], weight["Hint"]),
            "before": taught(early, weight["Hint"])}
    budget = {"behind": recipe, "before": kd.Recipe(epochs=5, lr=recipe.lr, validate_every=5)}
    return kd.compare(arms, data, budget, seeds=range(5), teacher=teacher)
""", "Expected the same budget for 'before'"),
]
