"""The pages that are not notebooks: questions, glossary, history, notation, bibliography."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import kdcourse as kd
from kdcourse import losses
from kdcourse.losses import CE, DKD, JS, KD, ReverseKL
from kdcourse.taps import Output

ROOT = Path(__file__).parents[2]
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
    assert 50 <= len(terms) <= 90
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
    modules = {name for name in losses.__all__ if name[0].isupper()} - {
        "Loss", "FeatureLoss", "Objective"}
    assert modules | {"soft_cross_entropy"} <= named
    assert {"Supervised", "Distiller", "Mutual", "MultiExit", "Live", "Cached", "Ensemble",
            "EMA"} <= named


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
    value, same = theirs(s, t, y), ours(Output(s, {}, None), Output(t, {}, None), y)
    (gradient,), (expected,) = torch.autograd.grad(same, s), torch.autograd.grad(value, s)
    torch.testing.assert_close(gradient, expected)
    if name not in ("TextBrewer", "TinyBERT"):  # a cross-entropy: other value, same gradient
        torch.testing.assert_close(same, value)


def test_weights_of_attention_transfer_belong_to_the_code():
    student, teacher = torch.rand(3, 4, 5, 5), torch.rand(3, 6, 5, 5)
    at = lambda x: F.normalize(x.pow(2).mean(1).flatten(1))  # noqa: E731
    torch.testing.assert_close(losses.attention_transfer(student, teacher, variant="code"),
                               (at(student) - at(teacher)).pow(2).mean())


def test_the_first_example_of_the_losses_is_attention_transfer_as_published(data):
    """In plain PyTorch: labels, softened answers, and `beta = 1e3` times `at_loss` of the authors'
    repository, szagoruyko/attention-transfer, `utils.py`."""
    student, teacher = (kd.models.resnet(depth=8, width=width, size=12, seed=width)
                        for width in (4, 8))
    names = {"student": student, "teacher": teacher}
    exec(re.search(r"```python\n(.*?)```", PAGES["losses.md"], re.S)[1], names)
    batch = next(data.train.batches(16, seed=0))
    names["scheme"].build(batch, seed=0)
    parts = names["scheme"].eval()(batch)

    def hooked(model, x):
        kept = []
        layer = model.get_submodule("layer2")
        hook = layer.register_forward_hook(lambda *call: kept.append(call[2]))
        logits = model(x)
        hook.remove()
        return logits, kept[0]

    (z, ours), (v, theirs) = hooked(student, batch.x), hooked(teacher.eval(), batch.x)
    at = lambda x: F.normalize(x.pow(2).mean(1).view(x.size(0), -1))  # noqa: E731
    soft = F.kl_div(F.log_softmax(z / 4, 1), F.softmax(v.detach() / 4, 1), reduction="batchmean")
    loss = (0.1 * F.cross_entropy(z, batch.y) + 0.9 * 16 * soft
            + 1e3 * (at(ours) - at(theirs.detach())).pow(2).mean())
    torch.testing.assert_close(parts.loss, loss)
    weights = list(student.layer1.parameters())
    torch.testing.assert_close(torch.autograd.grad(parts.loss, weights),
                               torch.autograd.grad(loss, weights), rtol=1e-4, atol=1e-4)


def test_the_table_names_at_least_twelve_sources():
    rows = re.findall(r"^\| (?!source|---)(.*?) \|", PAGES["notation.md"].split("tab-alpha")[1],
                      re.M)
    assert len(set(rows)) >= 12


# The front page, the reading paths and the page for instructors.


def contents() -> list[str]:
    """The notebooks of the numbered parts of the book, in order."""
    numbered = (ROOT / "_toc.yml").read_text("utf-8").split("caption: Part", 1)[1]
    numbered = numbered.split("caption: Reference")[0]
    return [f"{name}.ipynb" for name in re.findall(r"file: notebooks/(\w+)", numbered)]


def reading(text: str) -> list[tuple[str, int]]:
    """(notebook, minutes) wherever a chapter is listed with its time."""
    return [(name, int(minutes)) for name, minutes
            in re.findall(r"\]\(\.\./notebooks/(\w+\.ipynb)\),\s(\d+) minutes", text)]


def minutes() -> dict[str, int]:
    """Notebook: the reading time that its own first box states."""
    stated = {name: re.findall(r"\*\*Reading time\*\* about (\d+) minutes", text)
              for name, text in cells().items() if name[:2].isdigit()}
    return {name: int(time) for name, (time,) in stated.items()}


def section(page: str, label: str) -> str:
    """What stands below a label, up to the next heading of its kind."""
    return re.split(r"^## ", PAGES[page].split(f"({label})=\n", 1)[1], flags=re.M)[1]


def headings(name: str) -> set[str]:
    return set(re.findall(r"^#+ (.+?) *$", cells()[name], re.M))


def test_the_map_links_every_chapter():
    field = section("intro.md", "map-of-the-field")
    linked = set(re.findall(r"\.\./notebooks/(\w+\.ipynb)", field))
    assert linked == set(contents())


def test_a_chapter_has_what_the_map_says():
    text = {name: found.casefold() for name, found in cells().items()}
    entries = re.findall(r"\[([^\]]+)\]\(\.\./notebooks/(\w+\.ipynb)\)",
                         section("intro.md", "map-of-the-field"))
    entries = [(label, name) for label, name in entries
               if not re.fullmatch(r"(Chapter )?\d+", label)]
    assert len(entries) >= 10
    for label, name in entries:
        for method in re.split(r", (?:on )?| and ", label.casefold()):
            assert method in text[name], f"{name} does not speak of {method!r}"
    numbers = re.findall(r"\[(?:Chapter )?(\d+)\]\(\.\./notebooks/(\d+)_", PAGES["intro.md"])
    assert all(int(number) == int(file) for number, file in numbers)


def test_every_loss_of_the_package_has_its_line():
    others = {"hinton", "margins", "Loss", "FeatureLoss", "Objective", "as_objective", "as_map",
              "as_tokens", "as_vectors", "chunked"}
    for name in set(losses.__all__) - others:
        assert f"`{name} <kdcourse.losses.{name}>`" in PAGES["losses.md"], name


@pytest.mark.parametrize("page", ["paths.md", "teach.md"])
def test_times_are_those_of_the_chapters(page):
    assert len(reading(PAGES[page])) >= len(minutes()) > 0
    assert [(name, time) for name, time in reading(PAGES[page]) if minutes()[name] != time] == []


def test_times_add_up():
    for label in ("one-evening", "one-week"):
        path = section("paths.md", label)
        (total,) = re.findall(r"Together: (\d+) minutes", path)
        assert int(total) == sum(time for _, time in reading(path)), label
    first, last = re.findall(r"takes (\d+) to (\d+) minutes", PAGES["intro.md"])[0]
    times = minutes().values()
    assert (int(first), int(last)) == (min(times), max(times))
    assert set(re.findall(r"takes (\d+ to \d+) minutes", PAGES["intro.md"])) == {
        f"{first} to {last}"}


def test_a_week_and_a_semester_have_every_chapter():
    chapters = [name for name in contents() if name[:2].isdigit()]
    for label in ("one-week", "one-semester"):
        assert [name for name, _ in reading(section("paths.md", label))] == chapters, label


def test_each_of_twelve_weeks_has_something_to_read_and_to_hand_in():
    weeks = re.findall(r"^Week (\d+): (.*\n(?:(?!Week |\n\S).*\n)*)",
                       section("paths.md", "one-semester"), re.M)
    assert [int(number) for number, _ in weeks] == list(range(1, 13))
    for number, text in weeks:
        assert re.search(r"\]\([^)]+\)", text), f"week {number} has no link"
        assert "**Hand in**" in text, number
        for exercises in re.findall(r"\*\*Exercises?\*\* (\d)(?: and (\d))?", text):
            name, _ = reading(text)[0]  # of the first chapter, where a week has two
            assert all(any(title.startswith(f"{n}. ") for title in headings(name))
                       for n in exercises if n), f"week {number}: no such exercise"


def test_instructors_find_the_sections_that_are_named():
    blocks = re.split(r"^### Chapter (\d+)\. .*\n", section("teach.md", "chapter-by-chapter"),
                      flags=re.M)[1:]
    assert len(blocks) == 2 * len(minutes())
    for number, block in zip(blocks[::2], blocks[1::2]):
        ((name, _),) = reading(block)
        assert int(name[:2]) == int(number)
        for part in ("**Afterwards**", "**Prepare:**", "**Discuss:**", "**Misconceptions**"):
            assert part in block, f"chapter {number}: no {part}"
        named = re.findall(r'": \*(.+)\*$', block, re.M)
        assert len(named) >= 3, number
        assert set(named) <= headings(name), f"chapter {number}: {set(named) - headings(name)}"


def test_links_between_pages_lead_somewhere():
    for page in ("intro.md", "paths.md", "teach.md"):
        links = re.findall(r"\]\(([^)#\s]+)\)", PAGES[page])
        local = [link for link in links if not link.startswith("https:")]
        assert [link for link in local if not (ROOT / "book" / link).exists()] == [], page
