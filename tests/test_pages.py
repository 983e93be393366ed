"""The pages that are not notebooks: questions, glossary, history, notation, bibliography."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from kdcourse import losses
from kdcourse.losses import CE, DKD, JS, KD, ReverseKL
from kdcourse.models import View

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text("utf-8") for path in (ROOT / "book").glob("*.md")}
BIBLIOGRAPHY = (ROOT / "book" / "references.bib").read_text("utf-8")


def glossary() -> dict[str, str]:
    """Term: what it means. Fails when a term is defined twice."""
    (block,) = re.findall(r"```{glossary}\n(.*?)```", PAGES["glossary.md"], re.S)
    found = re.findall(r"^(\S.*)\n((?:  .*\n)+)", block, re.M)
    assert len(dict(found)) == len(found) == len(re.findall(r"^\S", block, re.M))
    return {term: " ".join(meaning.split()) for term, meaning in found}


def cells() -> dict[str, str]:
    """The text of every chapter."""
    return {path.name: "\n".join(
                "".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"]
                if cell["cell_type"] == "markdown")
            for path in (ROOT / "notebooks").glob("*.ipynb")}


def entries() -> dict[str, str]:
    """Key: entry of the bibliography. Fails when a key is there twice."""
    found = re.findall(r"^@\w+\{([^,\s]+),\n(.*?)^\}", BIBLIOGRAPHY, re.M | re.S)
    assert len(found) == BIBLIOGRAPHY.count("\n@") + BIBLIOGRAPHY.startswith("@")
    assert len(dict(found)) == len(found), "a key is there twice"
    return dict(found)


def test_the_glossary_is_in_order_and_each_term_is_there_once():
    terms = [term.casefold() for term in glossary()]
    assert 50 <= len(terms) <= 70
    assert terms == sorted(set(terms))


def test_a_term_has_one_or_two_sentences():
    for term, meaning in glossary().items():
        sentences = re.findall(r"[.?!](?= [A-Z]| \{|$)", re.sub(r"\{cite:p\}`\S+`", "", meaning))
        assert 1 <= len(sentences) <= 2, term
        assert meaning.endswith("."), term


def test_terms_that_pages_use_are_defined():
    known = {term.casefold() for term in glossary()}
    used = [(name, re.sub(r".*<(.*)>", r"\1", term).replace("\n", " ").casefold())
            for name, text in (PAGES | cells()).items()
            for term in re.findall(r"\{term\}`([^`]+)`", text)]
    assert len(used) > 30
    assert [(name, term) for name, term in used if term not in known] == []


def questions() -> dict[str, str]:
    """Question: answer."""
    _, *found = re.split(r"^### (.*)\n", PAGES["faq.md"], flags=re.M)
    return {title: re.split(r"^## ", text, flags=re.M)[0].strip()
            for title, text in zip(found[::2], found[1::2])}


def test_there_are_questions_and_each_shows_where_to_look():
    assert len(questions()) >= 20
    for question, answer in questions().items():
        assert question.endswith("?") or ". What " in question, question
        links = re.findall(r"\]\(([^)#]*)(?:#[\w-]+)?\)", answer)
        assert links, question
        local = [link for link in links if not link.startswith("https:")]
        assert local, f"{question}: no link to a page of this book"
        assert [link for link in local if not (ROOT / "book" / link).exists()] == [], question


def test_answers_are_short():
    for question, answer in questions().items():
        assert len(answer.split()) <= 110, question


def test_every_loss_and_every_scheme_is_on_the_map():
    table = PAGES["history.md"].split("(map-of-the-package)=")[1]
    named = set(re.findall(r"`(\w+)`", table))
    modules = {name for family in (losses.response, losses.feature, losses.relation)
               for name in family.__all__ if name[0].isupper()}
    assert modules | {"soft_cross_entropy"} <= named
    assert {"Supervised", "Distiller", "Mutual", "MultiExit", "Live", "Cached",
            "Ensemble"} <= named


def test_every_entry_can_be_found_by_its_address():
    for key, entry in entries().items():
        doi = re.search(r"^ *doi *= \{(.*)\}", entry, re.M)
        url = re.search(r"^ *url *= \{(.*)\}", entry, re.M)
        assert doi or url, key
        assert not doi or re.fullmatch(r"10\.\d{4,9}/\S+", doi[1]), key
        assert not url or re.fullmatch(r"https?://\S+", url[1]), key
        if url and "arxiv.org" in url[1]:
            assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{4,5}", url[1]), key
        for number in re.findall(r"arXiv:(\S+?)\}", entry):
            assert url and url[1].endswith("/" + number), key
        assert re.search(r"^ *year *= \{(19|20)\d\d\}", entry, re.M), key
        assert "author" in entry and "title" in entry, key


def test_no_paper_is_there_twice():
    addresses = re.findall(r"^ *url *= \{(.*)\}", BIBLIOGRAPHY, re.M)
    assert sorted(a for a in set(addresses) if addresses.count(a) > 1) == []


def test_every_cited_key_exists():
    known = set(entries())
    cited = [(name, key.strip()) for name, text in (PAGES | cells()).items()
             for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text) for key in keys.split(",")]
    assert len(cited) > 100
    assert [(name, key) for name, key in cited if key not in known] == []


# What other people's code computes, with the names it has there, and the objective that the table
# in notation.md gives for it. s, t: logits [B, K] of student and teacher; y: labels.
T, K = 3.0, 5
log_q = lambda s, T=T: F.log_softmax(s / T, 1)  # noqa: E731
p = lambda t, T=T: F.softmax(t / T, 1)  # noqa: E731


def soft_ce(s, t):
    return -(p(t) * log_q(s)).sum(1).mean()


def dkd(s, t, y):
    target = F.one_hot(y, K).bool()
    two = lambda x: torch.stack([(x * target).sum(1), (x * ~target).sum(1)], 1)  # noqa: E731
    first = F.kl_div(two(log_q(s).exp()).log(), two(p(t)), reduction="sum")
    second = F.kl_div(log_q(s - 1e4 * target), p(t - 1e4 * target), reduction="sum")
    return F.cross_entropy(s, y) + T**2 * (first + 8 * second) / len(y)


def gkd(s, t, beta):
    log_s, log_t = log_q(s), log_q(t)
    if beta in (0, 1):
        ends = (log_s, log_t) if beta == 0 else (log_t, log_s)
        return F.kl_div(*ends, reduction="batchmean", log_target=True)
    middle = (beta * log_t.exp() + (1 - beta) * log_s.exp()).log()
    return (beta * F.kl_div(middle, log_t, reduction="batchmean", log_target=True)
            + (1 - beta) * F.kl_div(middle, log_s, reduction="batchmean", log_target=True))


def weighted(alpha, temperature=T, by_classes=False):
    def source(s, t, y):
        soft = temperature**2 * F.kl_div(log_q(s, temperature), p(t, temperature),
                                         reduction="batchmean") / (K if by_classes else 1)
        return (1 - alpha) * F.cross_entropy(s, y) + alpha * soft
    return source


SOURCES = {
    "RepDistiller, mdistiller, torchdistill, timm": (
        weighted(0.9), 0.1 * CE() + 0.9 * KD(T=T)),
    "haitongli, DeiT, teacher assistants, Tf-KD": (
        weighted(0.9, by_classes=True), 0.1 * CE() + (0.9 / K) * KD(T=T)),
    "SuperGradients": (weighted(0.5, temperature=1), 0.5 * CE() + 0.5 * KD(T=1)),
    "mdistiller, DKD": (dkd, 1 * CE() + DKD(alpha=1, beta=8, T=T)),
    "labml": (
        lambda s, t, y: 0.5 * F.cross_entropy(s, y)
        + 100 * (p(t, 5) * (p(t, 5).log() - log_q(s, 5))).sum() / len(y) / 10,  # 10 classes there
        0.5 * CE() + 0.4 * KD(T=5)),
    "TextBrewer": (lambda s, t, y: 0.5 * F.cross_entropy(s, y) + 2 * soft_ce(s, t),
                   0.5 * CE() + (2 / T**2) * KD(T=T)),
    "TinyBERT": (lambda s, t, y: soft_ce(s, t) / K, (1 / (K * T**2)) * KD(T=T)),
    "Distiller": (
        lambda s, t, y: 0.5 * F.cross_entropy(s, y)
        + 0.5 * F.kl_div(log_q(s), p(t), reduction="sum") / len(y),
        0.5 * CE() + (0.5 / T**2) * KD(T=T)),
    "TRL, beta 0": (lambda s, t, y: gkd(s, t, 0), (1 / T**2) * KD(T=T)),
    "TRL, beta 0.3": (lambda s, t, y: gkd(s, t, 0.3),
                      (1 / T**2) * JS(beta=0.3, T=T, variant="paper")),
    "TRL, beta 1": (lambda s, t, y: gkd(s, t, 1), (1 / T**2) * ReverseKL(T=T)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_conversions_of_the_notation_page(name):
    theirs, ours = SOURCES[name]
    draw = torch.Generator().manual_seed(0)
    s, t = (3 * torch.randn(7, K, generator=draw, dtype=torch.float64) for _ in range(2))
    y = torch.randint(K, (7,), generator=draw)
    s.requires_grad_()
    value, same = theirs(s, t, y), ours(View(s, {}, None), View(t, {}, None), y)
    (gradient,), (expected,) = torch.autograd.grad(same, s), torch.autograd.grad(value, s)
    torch.testing.assert_close(gradient, expected)
    if name not in ("TextBrewer", "TinyBERT"):  # a cross-entropy: other value, same gradient
        torch.testing.assert_close(same, value)


def test_weights_of_attention_transfer_belong_to_the_code():
    student, teacher = torch.rand(3, 4, 5, 5), torch.rand(3, 6, 5, 5)
    at = lambda x: F.normalize(x.pow(2).mean(1).flatten(1))  # noqa: E731
    torch.testing.assert_close(losses.attention_transfer(student, teacher, variant="code"),
                               (at(student) - at(teacher)).pow(2).mean())


def test_the_table_names_at_least_twelve_sources():
    rows = re.findall(r"^\| (?!source|---)(.*?) \|", PAGES["notation.md"].split("tab-alpha")[1],
                      re.M)
    assert len(set(rows)) >= 12
