"""MiniLMv2: relations of queries, of keys and of values. B batch, N tokens, D features, A heads."""

import torch

from kdcourse.losses import inputs
from kdcourse.losses.attention.fused import separated, stated
from kdcourse.losses.attention.minilm import value_relation
from kdcourse.losses.base import FeatureLoss


def self_relation(students, teachers, reduction: str = "mean", mask_BN=None):
    r"""Compute the Kullback-Leibler divergences of relations of queries, keys and values.

    .. math:: L = \sum_{X \in \{Q, K, V\}} \frac{1}{A N} \sum_{a, n}
            D_{KL}(R^T_{X, a n} \,\|\, R^S_{X, a n}), \qquad
        R_{X, a} = \mathrm{softmax}\left(\frac{X_a X_a^\top}{\sqrt d}\right)

    Wang et al. 2021 (MiniLMv2, arXiv:2012.15828), section 3: each summand is `value_relation` of
    MiniLM. Sum over keys, mean over heads and queries, in nats. Raises `ValueError` for shapes that
    do not fit.

    students, teachers: tuples of as many tensors, such as (Q, K, V), each [B, A, N, d]: as many
        relation heads A and tokens on both sides, any widths d. `SelfRelation` cuts [B, N, D].
    mask_BN: 0 for tokens that are padding, which then count neither as queries nor as keys.

    >>> student, teacher = torch.zeros(1, 1, 2, 3), torch.tensor([[[[2.0], [0.0]]]])
    >>> self_relation((student, student), (teacher, teacher))  # twice value_relation's 0.3015
    tensor(0.6031)
    """
    for side, who in ((students, "student"), (teachers, "teacher")):
        inputs.check(isinstance(side, tuple | list) and len(side) > 0,
                     f"{who} queries, keys and values as a tuple (Q, K, V)", inputs.described(side))
    if len(students) != len(teachers):
        raise ValueError(f"Expected as many tensors of student and teacher, got {len(students)} "
                         f"and {len(teachers)}.")
    values = [value_relation(s, t, "none", mask_BN) for s, t in zip(students, teachers)]
    return inputs.reduce(sum(values), reduction)


class SelfRelation(FeatureLoss):
    """Match relations of queries, of keys and of values, as models hold them: `self_relation`.
    Trains nothing, and takes other widths and other numbers of attention heads.

    student, teacher: one path each of queries, keys and values in one tensor [B, N, 3 D], such as
        timm's "blocks.11.attn.qkv", with `fused`; or three paths of [B, N, D] each, such as BERT's
        "….self.query", "….self.key", "….self.value". Tensors [B, A, N, d] are taken as they are.
    heads: the relation heads, into which D is cut on both sides. They need not be the attention
        heads: 48 for teachers of base size and 64 for large ones.
    relations: which of the three are compared, such as "qk"; "v" is `ValueRelation`.
    fused: how the three lie in one tensor, which is stated, as its shape does not tell:
        "concatenated", "per head" with `heads` attention heads, or their number where `heads` are
        others (see `kdcourse.losses.attention.fused`); a pair for student and teacher.

    Published weight: 1 for each of the three relations, without labels, for the student's last
    layer; a large teacher's may be one below the last. Not verified at its source, as the authors
    have published no code: weights and layers are those of a reproduction, which has 48 heads and
    batch 256 per process for BERT-base (bloomberg/minilmv2.bb, run.sh and minilmv2/parsers.py), the
    48 and 64 those of another (PaddlePaddle/PaddleNLP,
    examples/model_compression/minilmv2/general_distill.py).
    """

    omitted, masks = ("fused",), True

    def __init__(self, student=None, teacher=None, *, heads: int | None = None,
                 relations: str = "qkv", fused=None):
        if heads is not None:
            inputs.check_count("heads", heads)
        known = isinstance(relations, str) and relations and set(relations) <= set("qkv")
        inputs.check(known and len(set(relations)) == len(relations),
                     'relations out of the letters of "qkv", each once', repr(relations))
        super().__init__(student, teacher, heads=heads, relations=relations, fused=fused)
        self._fused = stated(fused)
        for who, paths in (("student", self.student_paths), ("teacher", self.teacher_paths)):
            inputs.check(len(paths) in (0, 1, 3), f"one path of the {who}, of queries, keys and "
                         "values together, or three", list(paths))

    def values(self, student, teacher=None, labels=None, mask_BN=None):
        return self_relation(self._cut(student, "student", self._fused[0]),
                             self._cut(teacher, "teacher", self._fused[1]), "none", mask_BN)

    def _cut(self, x, who, fused) -> list[torch.Tensor]:
        """Cut out queries, keys and values of each relation head, [B, A, N, d], as asked for."""
        if isinstance(x, torch.Tensor):
            x = separated(x, fused, self.heads, who)
        inputs.check(isinstance(x, tuple | list) and len(x) == 3,
                     f"{who} queries, keys and values, in one tensor or three",
                     f"{len(x)} tensors" if isinstance(x, tuple | list) else inputs.described(x))
        parts = ["qkv".index(letter) for letter in self.relations]
        return [self._heads(x[part], who) for part in parts]

    def _heads(self, x, who) -> torch.Tensor:
        if isinstance(x, torch.Tensor) and x.ndim == 4:
            return x
        x = inputs.features(x, who, 3)
        if self.heads is None or x.shape[2] % self.heads:
            raise ValueError(f"Expected {who} features that {self.heads or 'so many'} relation "
                             f"heads divide, got {list(x.shape)}. Write SelfRelation(..., heads=4) "
                             "with a number that divides the widths of both sides.")
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
