"""Our losses beside the released versions of other libraries, on the same numbers.

Run with `nox -s parity`.
Where a library has the paper's formula, both agree. Where it differs, the test states the
difference that it found, and the version in which: these lines feed the chapter on mistakes. A test
that fails may be good news: the library was mended. Then say so there.
"""

import math
from importlib.metadata import version

import pytest
import torch
import torch.nn.functional as F
from helpers.laws import randn

from kdcourse import losses

mid_level = pytest.importorskip("torchdistill.losses.mid_level")

S, T_ = randn(6, 7, seed=1, scale=2), randn(6, 7, seed=2, scale=2)
Y = torch.arange(6) % 7
MAPS = randn(4, 3, 6, 6, seed=3), randn(4, 3, 6, 6, seed=4)
EMBEDDINGS = randn(6, 5, seed=5), randn(6, 8, seed=6)
PATHS = {"student_module_path": "m", "student_module_io": "output",
         "teacher_module_path": "m", "teacher_module_io": "output"}


def theirs(term, student, teacher, targets=None):
    """A torchdistill loss on one tensor of each side."""
    seen = ({"m": {"output": x}} for x in (student, teacher))
    return term(*seen, targets)


def pair(**more):
    return {"pair": {"student": {"io": "output", "path": "m"},
                     "teacher": {"io": "output", "path": "m"}} | more}


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.fixture(autouse=True)
def _versions(record_property):
    """Which versions a finding is about."""
    for name in ("torchdistill", "timm", "trl", "torch"):
        record_property(name, version(name))


# --- torchdistill -------------------------------------------------------------------------------


def test_torchdistill_kd_with_a_share_for_the_labels():
    term = mid_level.KDLoss(**PATHS, temperature=4.0, alpha=0.1)
    same(theirs(term, S, T_, Y), losses.hinton(T=4, alpha=0.9)(S, T_, Y))


def test_torchdistill_kd_without_labels_drops_its_weight_and_T_squared():
    """At alpha = 0.0001 the soft part has the factor T²; at 0 it is gone: 16 times smaller."""
    near = theirs(mid_level.KDLoss(**PATHS, temperature=4.0, alpha=1e-9), S, T_, Y)
    at = theirs(mid_level.KDLoss(**PATHS, temperature=4.0, alpha=0), S, T_, Y)
    same(near, losses.kd(S, T_, 4))
    same(at, losses.kd(S, T_, 4) / 16)


def test_torchdistill_kd_with_its_own_defaults_cannot_be_made():
    with pytest.raises(TypeError):
        mid_level.KDLoss(**PATHS, temperature=4.0)  # 1 - None


def test_torchdistill_attention_transfer_has_both_variants():
    code = mid_level.ATLoss(pair(), mode="code")
    same(theirs(code, *MAPS), losses.attention_transfer(*MAPS, variant="code"))
    paper = mid_level.ATLoss(pair(), mode="paper")
    same(theirs(paper, *MAPS), losses.attention_transfer(*MAPS, variant="paper"))


def test_torchdistill_fsp_adds_norms_of_columns_instead_of_squares():
    """The paper squares the Frobenius norm; here each column's norm is added, not squared."""
    student, teacher = (MAPS[0], MAPS[1]), (MAPS[1], MAPS[0].flip(0))
    places = {f"{who}_{which}": {"io": "output", "path": which}
              for who in ("student", "teacher") for which in ("first", "second")}
    seen = ({"first": {"output": first}, "second": {"output": last}}
            for first, last in (student, teacher))
    result = mid_level.FSPLoss({"pair": places})(*seen)
    flow = lambda first, last: torch.einsum("bphw,bqhw->bpq", first, last) / 36  # noqa: E731
    gap = flow(*student) - flow(*teacher)
    same(losses.fsp(student, teacher, "paper"), gap.square().sum((1, 2)).mean())
    same(result, gap.square().sum(1).sqrt().sum(1).mean())


def test_torchdistill_pkt_is_the_authors_code():
    same(theirs(mid_level.PKTLoss(**PATHS), *(x.clone() for x in EMBEDDINGS)),
         losses.pkt(*EMBEDDINGS, variant="code"))


@pytest.mark.parametrize("which", ["distance", "angle"])
def test_torchdistill_rkd_is_the_authors_code(which):
    term = mid_level.RKDLoss("m", "m", float(which == "distance"), float(which == "angle"), "mean")
    ours = {"distance": losses.rkd_distance, "angle": losses.rkd_angle}[which]
    same(theirs(term, *EMBEDDINGS), ours(*EMBEDDINGS, variant="code"))


def test_torchdistill_vid_is_the_mean():
    variance = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    seen = ({"m": {"output": (MAPS[0], variance[:, None, None])}}, {"m": {"output": MAPS[1]}})
    same(mid_level.VIDLoss(pair())(*seen), losses.vid(*MAPS, variance, variant="mean"))


def test_torchdistill_factor_transfer_is_the_authors_code():
    term = mid_level.FTLoss(p=1, paraphraser_path="m", translator_path="m")
    same(theirs(term, *MAPS), losses.factor_transfer(*MAPS))


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_torchdistill_activation_boundaries_is_the_authors_code(margin):
    term = mid_level.AltActTransferLoss(pair(), margin, "mean")
    same(theirs(term, *MAPS), losses.activation_boundaries(*MAPS, margin=margin))


def test_torchdistill_correlation_congruence_does_not_square():
    """The paper divides a squared norm by B²; here the norm itself is divided."""
    unit = [F.normalize(x, dim=1) for x in EMBEDDINGS]
    config = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    result = theirs(mid_level.CCKDLoss("m", "m", config, "batchmean"), *unit)
    same(result, (losses.correlation_congruence(*unit) * 36).sqrt() / 36)


def test_torchdistill_similarity_preserving_normalises_rows_by_their_L1_norm():
    """The paper's rows have L2 norm 1: a second argument of `normalize` is p, not the dimension."""
    term = mid_level.SPKDLoss("m", "m", "batchmean")
    rows = [x @ x.T for x in EMBEDDINGS]
    one, two = ([F.normalize(g, p=p, dim=1) for g in rows] for p in (1, 2))
    same(losses.similarity_preserving(*EMBEDDINGS), (two[0] - two[1]).square().sum() / 36)
    same(theirs(term, *EMBEDDINGS), (one[0] - one[1]).square().sum() / 36)


def test_torchdistill_hierarchical_context_is_that_of_review():
    term = mid_level.HierarchicalContextLoss(**PATHS)
    seen = ({"m": {"output": (MAPS[0], None)}}, {"m": {"output": MAPS[1]}})
    same(term(*seen), losses.review(*MAPS))


def test_torchdistill_dist_is_the_authors_code():
    same(theirs(mid_level.DISTLoss(**PATHS, tau=2.0), S, T_),
         losses.dist(S, T_, T=2, variant="code"))


def test_torchdistill_dist_plus_rewards_what_is_opposite():
    """Features that agree raise the loss by 1, opposite ones lower it: a correlation is added where
    one minus it belongs."""
    term = mid_level.DISTPlusLoss("m", "output", "m", "output", "f", "output", "f", "output",
                                  kappa=0)
    value = {}
    for name, student in (("equal", MAPS[1]), ("opposite", -MAPS[1])):
        seen = [{"m": {"output": x}, "f": {"output": f}}
                for x, f in ((T_[:4], student), (T_[:4], MAPS[1]))]
        value[name] = float(term(*seen))
    assert value["equal"] == pytest.approx(1, abs=1e-6)
    assert value["opposite"] == pytest.approx(-1, abs=1e-6)


def test_torchdistill_logit_standardization_is_the_authors_code():
    term = mid_level.LogitStdKDLoss(**PATHS, temperature=2.0, alpha=0.1, beta=9)
    expected = 0.1 * losses.cross_entropy(S, Y) + 9 * losses.logit_standardization(
        S, T_, T=2, variant="code")
    torch.testing.assert_close(theirs(term, S, T_, Y), expected, rtol=1e-5, atol=1e-6)


def test_torchdistill_crd_cannot_draw_its_negatives():
    unit = [F.normalize(x[:, :5], dim=1).float() for x in EMBEDDINGS]
    term = mid_level.CRDLoss("m", "index", "m", 5, 20, 4, 20)
    with pytest.raises(AttributeError, match="prob"):
        term({"m": {"output": unit[0]}, "index": {"input": {"pos_idx": torch.arange(6)}}},
             {"m": {"output": unit[1]}})


# --- timm ---------------------------------------------------------------------------------------


def task(kind, **settings):
    import timm
    from timm import task as tasks

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = timm.create_model("test_resnet", num_classes=10).eval()
        teacher = timm.create_model("test_resnet", num_classes=10).eval()
    made = getattr(tasks, kind)(student, teacher, criterion=torch.nn.CrossEntropyLoss(),
                                device=torch.device("cpu"), verbose=False, **settings)
    return made, student, teacher


def test_timm_distillation_is_hintons():
    made, student, teacher = task("LogitDistillationTask", temperature=3.0, task_loss_weight=0.25)
    x, y = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    result = made.eval()(x, y)
    expected = losses.hinton(T=3, alpha=0.75)(student(x), teacher(x), y)
    torch.testing.assert_close(result["loss"], expected)


def test_timm_distillation_of_features_is_a_mean_squared_error():
    made, student, teacher = task("FeatureDistillationTask", task_loss_weight=0.25)
    x, y = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    result = made.eval()(x, y)
    ours, target = (net.forward_head(net.forward_features(x), pre_logits=True)
                    for net in (student, teacher))
    same(result["kd_loss"], losses.hint(ours, target, "mean"))
    expected = 0.25 * losses.cross_entropy(student(x), y) + 0.75 * losses.hint(ours, target, "mean")
    torch.testing.assert_close(result["loss"], expected)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_timm_distillation_of_a_token_is_that_of_deit(kind):
    """The soft term is the sum over the classes, where DeiT's code divides by their number."""
    import timm
    from timm import task as tasks

    small = {"img_size": 64, "depth": 1, "num_classes": 10}
    student = timm.create_model("deit_tiny_distilled_patch16_224", **small)
    teacher = timm.create_model("deit_tiny_patch16_224", **small).eval()  # normalised alike
    made = tasks.TokenDistillationTask(
        student, teacher, torch.nn.CrossEntropyLoss(), distill_type=kind, task_loss_weight=0.5,
        temperature=3.0, device=torch.device("cpu"), verbose=False)
    x, y = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    made.train()  # as only then both heads answer
    by_class, by_token = student(x)
    result = made(x, y)
    term = losses.HardLabel() if kind == "hard" else losses.KD(T=3)
    expected = 0.5 * losses.cross_entropy(by_class, y) + 0.5 * term(by_token, made.teacher(x))
    torch.testing.assert_close(result["loss"], expected)


def test_timm_keeps_its_teacher_asleep():
    """Mended: in earlier versions `task.train()` woke the frozen teacher."""
    made, _, teacher = task("LogitDistillationTask")
    made.train()
    assert not any(module.training for module in teacher.modules())


# --- TRL ----------------------------------------------------------------------------------------


def jsd(beta):
    trainer = pytest.importorskip("trl.experimental.gkd.gkd_trainer").GKDTrainer
    # One token a sample, so that their mean over samples is ours.
    return trainer.generalized_jsd_loss(S[:, None], T_[:, None], beta=beta)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_trl_has_the_papers_divergence(beta):
    same(jsd(beta), losses.jensen_shannon(S, T_, beta, variant="paper"))


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_trl_jumps_at_the_ends(end):
    """At the end itself it is a KL divergence, next to it almost nothing: ours has no jump."""
    kl = losses.kd(S, T_, 1) if end == 0 else losses.reverse_kl(S, T_, 1)
    near = abs(end - 1e-4)
    same(jsd(end), kl)
    assert float(jsd(near)) < 1e-3 * float(kl)
    assert math.isclose(float(losses.jensen_shannon(S, T_, near)), float(kl), rel_tol=1e-2)


# --- TextBrewer ---------------------------------------------------------------------------------

TOKENS = [randn(4, 9, 5, seed=seed) for seed in (7, 8, 9, 10)]  # nine tokens: a grid of 3 x 3


@pytest.fixture(scope="module")
def brewer():
    return pytest.importorskip("textbrewer.losses")


@pytest.mark.parametrize("T", [1, 2.0, 4.0])
def test_textbrewer_on_logits(brewer, T):
    """No T² there."""
    same(brewer.kd_ce_loss(S, T_, T), losses.soft_cross_entropy(S, T_, T) / T**2)
    same(brewer.kd_mse_loss(S, T_, T), losses.logit_mse(S, T_, "mean") / T**2)


def test_textbrewer_on_hidden_states(brewer):
    same(brewer.hid_mse_loss(*TOKENS[:2]), losses.hidden_mse(*TOKENS[:2]))
    same(brewer.hid_mse_loss(*TOKENS[:2]), losses.hint(*TOKENS[:2]))
    same(brewer.cos_loss(*TOKENS[:2]), losses.hidden_cosine(*TOKENS[:2]))


def test_textbrewer_patient_distillation_is_twice_the_cosine_of_the_first_token(brewer):
    first = [x[:, :1] for x in TOKENS[:2]]
    same(brewer.pkd_loss(*TOKENS[:2]), 2 * losses.hidden_cosine(*first))


def test_textbrewer_attention_as_a_cross_entropy_of_scores(brewer):
    """Above 0, as it sets the teacher's probability to 0 where its score is at most -0.001."""
    scores = [randn(4, 2, 9, 9, seed=seed).abs() for seed in (11, 12)]
    log_p = scores[1].log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1).mean()
    same(brewer.att_ce_loss(*scores), losses.attention_kl(*scores, scores=True) + entropy)
    scores[1] = -scores[1] - 1
    assert float(brewer.att_ce_loss(*scores)) == 0


def test_textbrewer_fsp_is_a_mean_over_entries(brewer):
    tokens = [randn(4, 16, 5, seed=seed) for seed in range(4)]  # a square grid, as `fsp` pools maps
    same(brewer.fsp_loss(tokens[:2], tokens[2:]), losses.fsp(tokens[:2], tokens[2:]))


def test_textbrewer_sets_negative_attention_scores_to_zero(brewer):
    """Scores of at most -0.001, where TinyBERT's code takes -100 (masked places). Probabilities
    are not touched."""
    scores = randn(4, 2, 9, 9, seed=11), randn(4, 2, 9, 9, seed=12)
    weights = [x.softmax(-1) for x in scores]
    same(brewer.att_mse_loss(*weights), losses.attention_mse(*weights))
    positive = [x.where(x > -1e-3, 0) for x in scores]
    same(brewer.att_mse_loss(*scores), losses.attention_mse(*positive))
    assert not torch.allclose(losses.attention_mse(*scores), losses.attention_mse(*positive), 0.1)
