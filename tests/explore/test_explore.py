"""The explorables: what Python puts in the page, and what a browser makes of it."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from kdcourse.explore import (
    _page,
    bet,
    divergence,
    gallery,
    layers,
    push,
    question,
    score,
    temperature,
)

K = 10
CLASSES = ["O", "0", "Q", "I", "1", "l", "S", "5", "B", "8"]
CHOICES = {
    "It flattens it.": "Logits shrink.",
    "It sharpens it.": "T < 1 would.",
    "Nothing.": "No!",
}


def teacher(N=3, K=K, seed=0):
    return np.random.default_rng(seed).normal(size=(N, K)) * 4


def pictures(N=3, channels=1, size=28, seed=0):
    """Smooth pictures, as real ones are: noise of a few pixels, enlarged."""
    small = np.random.default_rng(seed).random((N, channels, 4, 4))
    return small.repeat(size // 4, axis=2).repeat(size // 4, axis=3)


def likeness(S=3, R=2, C=3, seed=0):
    return np.random.default_rng(seed).random((S, R, C))


def page_of(*cards, theme="light"):
    body = "\n<p>Text between the cards.</p>\n".join(
        card._repr_mimebundle_()["text/html"] for card in cards
    )
    return (
        f'<!doctype html><html lang="en" data-theme="{theme}"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Cards</title>'
        # Hostile on purpose: none of this may reach the cards.
        "<style>table, label, input, p { border: 3px solid red; color: #eee; font-size: 9px }"
        'html[data-theme="dark"] { background: #111; color: #eee }</style>'
        f"<body><main><h1>Cards</h1>{body}</main></body></html>"
    )


def html_of(card):
    return card._repr_mimebundle_()["text/html"]


def one_of_each():
    number = bet("By how much?", (0, 30), "01/gain", unit="points")
    choice = bet("On which classes?", ["On *all* alike", "On those like `O` and `0`"], "01/where")
    return [
        temperature(teacher(), CLASSES, pictures(), [0, 1, 2]),
        temperature(teacher(2, 36), [f"class {k}" for k in range(36)], title="Many classes"),
        question("What does T = 20 do?", CHOICES, "01/flat", answer="It flattens it."),
        question("And T = 1?", CHOICES, "01/one", answer="Nothing."),
        number,
        choice,
        score(number, 13.24, interval=(11.9, 14.5), note="Five seeds of `KD`."),
        score(choice, "On *all* alike"),
        divergence(),
        push(teacher(seed=1), teacher(), [0, 1, 2], CLASSES, pictures()),
        gallery(pictures(), [0, 1, 2], CLASSES, {"teacher": teacher(), "student": teacher(seed=1)}),
        layers(likeness(), ["conv1", "conv2"], ["stem", "layer1", "layer2"], steps=[0, 5, 40]),
    ]


class TestErrors:
    z = teacher()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"logits": [1.0, 2.0]}, r"logits: expected \[N, K\].* got \[2\]; pick a few rows"),
            ({"logits": [[1.0, 2.0], [1.0]]}, "logits: expected an array of numbers, got list"),
            ({"logits": np.zeros((17, K))}, r"logits: .* 1 to 16 images .* got \[17, 10\]"),
            ({"logits": [[1.0]]}, "logits: expected .* at least 2 classes"),
            ({"logits": np.full((3, K), np.nan)}, "logits: expected finite numbers, got NaN"),
            ({"logits": np.full((3, K), -np.inf)}, "logits: expected finite numbers"),
            ({"classes": "abc"}, "classes: expected 10 names.* got 3; pass the names"),
            ({"T": 0}, "T: expected a temperature above 0, got 0; usual values"),
            ({"T": -1.5}, "T: expected a temperature above 0, got -1.5"),
            ({"T": float("nan")}, "T: expected a temperature above 0, got nan"),
            ({"T": "4"}, "T: expected a temperature above 0, got '4'"),
            ({"top": 1}, "top: expected a number of at least 2, got 1"),
            ({"labels": [0, 1]}, "labels: expected 3 whole numbers"),
            ({"labels": [0, 1, 2.5]}, "labels: expected 3 whole numbers, .*2.5"),
            ({"labels": [0, 1, 10]}, "labels: expected class numbers from 0 to 9, got 0 to 10"),
            ({"labels": [-1, 1, 2]}, "labels: expected class numbers from 0 to 9, got -1 to 2"),
            ({"images": pictures()[:2]}, r"images: expected \[3, 1, H, W\] .* got \[2, 1"),
            ({"images": pictures(channels=2)}, r"images: expected .* got \[3, 2, 28, 28\]"),
            ({"images": pictures()[:, 0]}, r"images: .* got \[3, 28, 28\]; .*channels first"),
            ({"images": pictures() * 2 - 1}, r"images: expected values in \[0, 1\].*normalisation"),
        ],
    )
    def test_temperature(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            temperature(**{"logits": self.z, "classes": CLASSES, **arguments})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"means": [0, 1, 2]}, r"means: expected .* two bumps.* got \[\[3\], \[2\], \[2\]\]"),
            ({"stds": [1, 0]}, r"stds: expected numbers above 0, got \[1.0, 0.0\]"),
            ({"weights": [1, -1]}, "weights: expected numbers above 0"),
            ({"mean": 9}, "mean: expected a number from -4.8 to 4.8, got 9"),
            ({"mean": None}, "mean: expected a number, got None"),
            ({"std": 0}, "std: expected a number above 0, got 0"),
            ({"std": 9}, "std: expected a width from 0.17 to 3.2, got 9"),
        ],
    )
    def test_divergence(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            divergence(**arguments)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"teacher": teacher(2)}, "teacher: expected logits of 3 images, as student, got 2"),
            ({"teacher": teacher(3, 9)}, "classes: expected 9 names, .* teacher, got 10"),
            ({"T": 0.5}, "T: expected a temperature from 1 to 20, got 0.5"),
            ({"alpha": 1.5}, "alpha: expected a weight from 0 to 1, got 1.5"),
            ({"labels": [0, 1]}, "labels: expected 3 whole numbers"),
            ({"images": pictures()[:2]}, r"images: expected \[3, 1, H, W\]"),
            ({"top": 1}, "top: expected a number of at least 2, got 1"),
        ],
    )
    def test_push(self, arguments, message):
        usual = {"student": self.z, "teacher": self.z, "labels": [0, 1, 2], "classes": CLASSES}
        with pytest.raises(ValueError, match=message):
            push(**{**usual, **arguments})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"answers": {}}, "answers: expected a dict of logits by name"),
            ({"answers": {"a": teacher(), "b": teacher(2)}}, "b: expected logits of 3 images"),
            ({"answers": {"a": teacher(41)}}, "a: expected .* 1 to 40 images"),
            ({"labels": [0, 1]}, "labels: expected 3 whole numbers"),
            ({"classes": "ab"}, "classes: expected 10 names, .* of a, got 2"),
        ],
    )
    def test_gallery(self, arguments, message):
        usual = {"images": None, "labels": [0, 1, 2], "classes": CLASSES, "answers": {"a": self.z}}
        with pytest.raises(ValueError, match=message):
            gallery(**{**usual, **arguments})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"tables": likeness(R=3)}, r"tables: expected \[S, 2, 3\].* got \[3, 3, 3\]"),
            ({"tables": likeness() + 1}, "tables: expected values from 0 to 1, got 1"),
            ({"tables": likeness() - 1}, "tables: expected values from 0 to 1, got -"),
            ({"steps": [1]}, "steps: expected 3 names, one for each table, got 1"),
        ],
    )
    def test_layers(self, arguments, message):
        usual = {"tables": likeness(), "rows": "ab", "columns": "xyz"}
        with pytest.raises(ValueError, match=message):
            layers(**{**usual, **arguments})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"choices": {"a": "b"}}, "choices: expected a dict of at least 2 answers"),
            ({"choices": ["a", "b"]}, "choices: expected a dict of at least 2 answers"),
            ({"choices": {"a": "why", "b": " "}}, "choices: expected an explanation for every"),
            ({"answer": "No such answer"}, "answer: expected one of .* got 'No such answer'; mark"),
            ({"answer": "It"}, "answer: expected one of .*beginning of just one, got 'It'"),
            ({"answer": ""}, "answer: expected one of"),
            ({"name": ""}, "name: expected a text that is not empty, got ''; give it one"),
            ({"prompt": None}, "prompt: expected a text that is not empty, got None"),
        ],
    )
    def test_question(self, arguments, message):
        usual = {"prompt": "?", "choices": CHOICES, "name": "q", "answer": "Nothing."}
        with pytest.raises(ValueError, match=message):
            question(**{**usual, **arguments})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"choices": ["only one"]}, "choices: expected at least 2 different texts, or two num"),
            ({"choices": ["same", "same"]}, "choices: expected at least 2 different texts"),
            ({"choices": (3, 3)}, r"choices: expected \(low, high\), got \[3, 3\]; put the lower"),
            ({"choices": (0, float("inf"))}, r"choices: expected \(low, high\)"),
            ({"step": 0}, "step: expected a number above 0, got 0"),
            ({"name": "  "}, "name: expected a text that is not empty"),
        ],
    )
    def test_bet(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            bet(**{"prompt": "?", "choices": (0, 30), "name": "b", **arguments})

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"measured": float("nan")}, "measured: expected finite numbers.*got nan"),
            ({"measured": True}, "measured: expected finite numbers"),
            ({"measured": "text"}, "measured: expected the text of one of the choices, got"),
            ({"measured": ["a", "c"], "choices": ["a", "b"]}, "choices, or some of them, got"),
            ({"measured": [], "choices": ["a", "b"]}, "choices, or some of them, got"),
            ({"measured": 1.0, "choices": ["a", "b"]}, "measured: expected finite numbers, or the"),
            ({"measured": 1.0, "interval": (2, 1)}, r"interval: expected \(low, high\), got \[2.0"),
            ({"measured": 1.0, "name": ""}, "name: expected a text that is not empty"),
        ],
    )
    def test_score(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            score(**{"name": "b", **arguments})


class TestOutput:
    @pytest.mark.parametrize("i", range(8))
    def test_same_input_same_output(self, i):
        assert html_of(one_of_each()[i]) == html_of(one_of_each()[i])

    def test_another_input_has_another_key(self):
        keys = {html_of(card).split('"')[1] for card in one_of_each()}
        assert len(keys) == len(one_of_each())

    def test_tensors_are_taken_as_they_are(self):
        torch = pytest.importorskip("torch")
        z = torch.from_numpy(teacher()).float()
        wanted = temperature(z.numpy(), CLASSES, pictures(), [0, 1, 2])
        tensor = temperature(
            z.requires_grad_(), CLASSES, torch.from_numpy(pictures()), torch.tensor([0, 1, 2])
        )
        assert html_of(tensor) == html_of(wanted)
        assert temperature(z.bfloat16(), CLASSES).data["logits"]

    def test_float32_logits_come_back_exactly(self):
        z = teacher().astype(np.float32) * 7
        stored = np.array(temperature(z, CLASSES).data["logits"])
        np.testing.assert_array_equal(stored.astype(np.float32), z)

    def test_nothing_in_the_data_can_end_the_script(self):
        evil = "</script><script>alert(1)</script><!-- \u2028 & 'x' \"y\" <b>"
        cards = [
            temperature(teacher(), [evil, *CLASSES[1:]], labels=[0, 1, 2], title=evil),
            question(evil, {evil: evil, "b": evil}, evil, answer="b"),
            bet(evil, [evil, "b"], evil, unit=evil),
            score(bet(evil, [evil, "b"], evil), "b", note=evil),
            score(evil, 1.0, unit=evil, note=evil, prompt=evil),
        ]
        for card in cards:
            page = html_of(card)
            assert page.count("</script>") == 1
            assert page.endswith("</script>")
            assert "<b>" not in page.replace("`<b>", "")  # the card's own template has one
            assert "\u2028" not in page.split("<script>")[1]
            assert "<!--" not in page

    def test_the_code_itself_can_stand_in_a_page(self):
        for kind in ("temperature", "question", "bet", "score"):
            code = _page.module(kind)
            assert "<!--" not in code
            assert "</script" not in code
            assert "import " not in code
            assert code.count("export ") == 1
            assert "//" not in code
            assert "http" not in code

    def test_size(self):
        digits = temperature(teacher(9), CLASSES, pictures(9), [0] * 9)
        photos = temperature(teacher(9), CLASSES, pictures(9, 3, 32), [0] * 9)
        assert len(html_of(digits)) < 60_000
        assert len(html_of(photos)) < 60_000
        for card in one_of_each()[2:]:
            assert len(html_of(card)) < 25_000

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [8, 28, 200])
    def test_png_is_the_image(self, channels, size):
        Image = pytest.importorskip("PIL.Image")
        image = pictures(1, channels, size)[0]
        uri = _page.png(image)
        head, data = uri.split(",")
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            back = np.asarray(picture, dtype=float).reshape(*picture.size[::-1], channels) / 255
        assert max(back.shape[:2]) <= 96
        if size <= 96:
            assert np.abs(back.transpose(2, 0, 1) - image).max() <= 0.5 / 255 + 1e-9

    def test_markup(self):
        assert _page.markup("`a*b*` and *so* 2 * 3 * 4 a*b*c <i>") == (
            "<code>a*b*</code> and <em>so</em> 2 * 3 * 4 a*b*c &lt;i&gt;"
        )
        assert _page.markup("a lone ` stays") == "a lone ` stays"
        assert _page.plain("`F.kl_div` is *not* <T²>") == "F.kl_div is not <T²>"

    def test_text_for_terminals(self):
        bundle = temperature(teacher(), CLASSES, labels=[0, 1, 2], T=4)._repr_mimebundle_()
        assert set(bundle) == {"text/plain", "text/html"}
        first = bundle["text/plain"].splitlines()
        assert first[0] == "What the teacher says at temperature T = 4"
        assert first[1].startswith("Image 1, O: ")
        assert "entropy" in first[1]
        assert "( ) It sharpens it." in str(one_of_each()[2])
        assert "from 0 to 30 points" in str(one_of_each()[4])
        assert "We measured 13.2 points (95 % interval 11.9 to 14.5). Five seeds of KD." in str(
            one_of_each()[6]
        )
        assert one_of_each()[5].choices == ["On *all* alike", "On those like `O` and `0`"]
        assert repr(one_of_each()[6]).startswith("<kdcourse.explore.score: We measured")

    def test_still_version(self):
        """What is seen where no script runs: the numbers, and every answer explained."""
        z = teacher()
        still = html_of(temperature(z, CLASSES, pictures(), [0, 1, 2], T=4)).split("<style>")[0]
        p = np.exp(z[0] / 4) / np.exp(z[0] / 4).sum()
        assert f"{100 * p.max():.1f} % {CLASSES[p.argmax()]}" in still
        assert still.count("<img ") == still.count('alt="Image ') == 3
        still = html_of(one_of_each()[2]).split("<style>")[0]
        assert still.count("<details>") == 3
        assert "✓ Right. Logits shrink." in still
        assert "✗ No. T &lt; 1 would." in still

    def test_explore_needs_no_torch(self):
        """Read the page's machinery alone: it must import without the rest of the package."""
        folder = Path(_page.__file__).parent
        code = (
            "import importlib.util as u, sys;"
            f"s = u.spec_from_file_location('alone', {str(folder / '__init__.py')!r},"
            f" submodule_search_locations=[{str(folder)!r}]);"
            "m = u.module_from_spec(s); sys.modules['alone'] = m; s.loader.exec_module(m);"
            "print(m.temperature([[2, 1]], 'ab'));"
            "assert not {'torch', 'anywidget', 'PIL'} & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


class TestWidget:
    def test_the_same_module_with_traits(self):
        pytest.importorskip("anywidget")
        for card, state in zip(
            one_of_each(),
            [{"T": 4.0, "index": 0}] * 2 + [{"choice": None}] * 2 + [{"value": None}] * 4
            + [{"mean": 0.0, "std": 1.0}, {"index": 0, "T": 4.0, "alpha": 0.9}, {"index": 0},
               {"step": 2}],
            strict=True,
        ):
            widget = card.widget()
            assert {key: getattr(widget, key) for key in state} == state
            assert all(widget.traits(sync=True)[key] for key in [*state, "data"])
            assert str(widget._esm) == _page.module(card.kind)
            assert widget.data == card.data
            assert repr(widget) == repr(card)

    def test_traits_reject_nonsense(self):
        traitlets = pytest.importorskip("traitlets")
        pytest.importorskip("anywidget")
        widget = one_of_each()[0].widget()
        widget.T = 8
        with pytest.raises(traitlets.TraitError):
            widget.T = "hot"


# In a browser.

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as p:
        try:  # where the system has none: the one that `playwright install` brings
            browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        except playwright.Error:
            pytest.skip("no Chromium found: the cards were not tried in a browser")
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, tmp_path):
    """visit(cards or a file) opens them from disk; at the end nothing may have gone wrong."""
    contexts, wrong = [], []

    def go(*cards, file=None, theme="light", width=1000, **options):
        if file is None:
            file = tmp_path / "page.html"
            file.write_text(page_of(*cards, theme=theme), encoding="utf-8")
        context = chromium.new_context(viewport={"width": width, "height": 800}, **options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))

        def watch(request):
            if urlsplit(request.url).scheme not in ("file", "data", "blob", "about"):
                wrong.append(f"asked for {request.url}")

        page.on("request", watch)
        page.goto(file.as_uri())
        return page

    yield go
    for context in contexts:
        context.close()
    assert wrong == [], "\n".join(wrong)


def expected(z_K, T, answer):
    """NumPy's float64 numbers for one image."""
    p = np.exp((z_K - z_K.max()) / T)
    p /= p.sum()
    wrong = np.sort(np.delete(p, answer))[::-1]
    bits = -(p * np.log2(p)).sum()
    return {
        "t": T,
        "entropy": bits,
        "equal": 2**bits,
        "wrong": wrong.sum(),
        "ratio": wrong[0] / wrong[1],
    }, p


def shown(card):
    """The exact numbers that a temperature card carries."""
    data = card.evaluate("e => ({...e.dataset})")
    rows = card.locator("tbody tr").evaluate_all("rows => rows.map(row => ({...row.dataset}))")
    return (
        {key: float(data[key]) for key in ("t", "entropy", "equal", "wrong", "ratio")},
        {row["class"]: float(row["p"]) for row in rows},
    )


def agree(card, z_K, T, answer):
    numbers, p = expected(z_K, T, answer)
    got_numbers, got_p = shown(card)
    assert got_numbers == pytest.approx(numbers, rel=1e-9, abs=1e-6)
    for k, value in got_p.items():
        if k != "rest":
            assert value == pytest.approx(p[int(k)], abs=1e-6)
    assert sum(got_p.values()) == pytest.approx(1, abs=1e-9)


def axe(page, context=".kdx"):
    sync = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = sync.Axe().run(page, context=context, options={"preload": False}).response
    assert found["violations"] == [], json.dumps(found["violations"], indent=1)[:3000]
    return found


class TestDivergence:
    MEANS, STDS, WEIGHTS = (-1.5, 2.5), (0.5, 0.9), (0.7, 0.3)

    def by_quadrature(self, mean, std):
        """Both divergences, by SciPy's adaptive integration."""
        from scipy import integrate, stats

        q = stats.norm(mean, std)

        def log_p(x):
            return np.logaddexp(*(np.log(w) + stats.norm.logpdf(x, m, s) for m, s, w in
                                  zip(self.MEANS, self.STDS, self.WEIGHTS, strict=True)))

        def integral(f):
            return sum(integrate.quad(f, a, a + 1, epsabs=1e-12)[0] for a in range(-25, 25))

        return {"forward": integral(lambda x: np.exp(log_p(x)) * (log_p(x) - q.logpdf(x))),
                "reverse": integral(lambda x: q.pdf(x) * (q.logpdf(x) - log_p(x)))}

    def open(self, visit, **settings):
        page = visit(divergence(self.MEANS, self.STDS, self.WEIGHTS, **settings))
        return page, page.locator(".card.divergence")

    def shown(self, card):
        data = card.evaluate("e => ({...e.dataset})")
        return {key: float(data[key]) for key in ("mean", "std", "forward", "reverse")}

    def agrees(self, card):
        seen = self.shown(card)
        right = self.by_quadrature(seen["mean"], seen["std"])
        assert {key: seen[key] for key in right} == pytest.approx(right, abs=1e-6)
        return seen

    def test_sliders_by_keyboard(self, visit):
        page, card = self.open(visit, mean=0.4, std=1.1)
        before = self.agrees(card)
        card.get_by_role("slider", name="Middle").focus()
        page.keyboard.press("ArrowRight")
        card.get_by_role("slider", name="Its width").focus()
        page.keyboard.press("PageUp")
        after = self.agrees(card)
        assert after["mean"] == pytest.approx(before["mean"] + 0.01)
        assert after["std"] > before["std"]
        assert f"{after['forward']:.3f}" in card.inner_text()

    def test_the_forward_divergence_takes_mean_and_variance_of_the_teacher(self, visit):
        """A closed form: the best normal distribution has the mixture's first two moments."""
        page, card = self.open(visit, mean=-1.0, std=0.5)
        card.get_by_role("button", name="forward").focus()
        page.keyboard.press("Enter")
        m, s, w = map(np.array, (self.MEANS, self.STDS, self.WEIGHTS))
        mean = (w * m).sum()
        seen = self.agrees(card)
        assert seen["mean"] == pytest.approx(mean, abs=1e-3)
        assert seen["std"] == pytest.approx(np.sqrt((w * (s**2 + m**2)).sum() - mean**2), abs=1e-3)
        assert "covers both bumps" in card.locator(".say").inner_text()

    @pytest.mark.parametrize("bump", [0, 1])
    def test_the_reverse_divergence_stays_at_the_bump_where_it_starts(self, visit, bump):
        _, card = self.open(visit, mean=self.MEANS[bump] + 0.3, std=0.6)
        card.get_by_role("button", name="reverse").click()
        seen = self.agrees(card)
        assert seen["mean"] == pytest.approx(self.MEANS[bump], abs=0.15)
        assert "sits on one bump" in card.locator(".say").inner_text()
        # It is a smallest value: every small step away is uphill.
        for mean, std in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)):
            near = self.by_quadrature(seen["mean"] + mean, seen["std"] + std)
            assert near["reverse"] > seen["reverse"]


class TestPush:
    def by_torch(self, z_K, v_K, label, T, alpha):
        """The gradient of the package's own loss, and its parts."""
        torch = pytest.importorskip("torch")
        from kdcourse import losses

        z, v, y = torch.tensor(z_K[None]), torch.tensor(v_K[None]), torch.tensor([label])
        parts = []
        for weight, loss in ((1 - alpha, lambda z: losses.cross_entropy(z, y)),
                             (alpha, lambda z: losses.kd(z, v, T))):
            leaf = z.clone().requires_grad_()
            value = loss(leaf)
            (gradient,) = torch.autograd.grad(value, leaf)
            parts.append((value.item(), -weight * gradient[0].numpy()))
        return parts

    def agrees(self, card, z_NK, v_NK, labels):
        data = card.evaluate("e => ({...e.dataset})")
        index, T, alpha = int(data["index"]), float(data["t"]), float(data["alpha"])
        (ce, hard), (kl, soft) = self.by_torch(z_NK[index], v_NK[index], labels[index], T, alpha)
        assert float(data["ce"]) == pytest.approx(ce, abs=1e-6)
        assert float(data["kl"]) == pytest.approx(kl, abs=1e-6)
        rows = card.locator("tbody tr").evaluate_all("rows => rows.map(row => ({...row.dataset}))")
        assert len(rows) == 6 and int(rows[0]["class"]) == labels[index]
        for row in rows:
            k = int(row["class"])
            assert float(row["hard"]) == pytest.approx(hard[k], abs=1e-6)
            assert float(row["soft"]) == pytest.approx(soft[k], abs=1e-6)
        return index, T, alpha

    def test_a_disagreement_that_one_side_makes_visible_is_named(self, visit):
        """Of 36 classes an untrained student's label pushes each wrong one down by little."""
        z, v = np.zeros((1, 36)), np.zeros((1, 36))
        v[0, :2] = 12, 11
        page = visit(push(z, v, [0], [f"class {k}" for k in range(36)], T=4.0, alpha=0.9))
        assert "They disagree about “class 1”." in page.locator(".card.push .say").inner_text()

    def test_the_push_is_minus_the_gradient(self, visit):
        z, v, labels = teacher(seed=1), teacher(), [0, 1, 2]
        page = visit(push(z, v, labels, CLASSES, pictures(), T=2.0, alpha=0.5))
        card = page.locator(".card.push")
        assert self.agrees(card, z, v, labels) == (0, 2.0, 0.5)
        card.get_by_role("slider", name="Temperature").focus()
        page.keyboard.press("ArrowRight")
        card.get_by_role("slider", name="Weight").focus()
        page.keyboard.press("ArrowLeft")
        card.get_by_label("Image and its label").select_option("2")
        assert self.agrees(card, z, v, labels) == (2, 2.5, pytest.approx(0.45))
        for key, words in (("End", "Only the teacher pushes."), ("Home", "Only the label pushes.")):
            card.get_by_role("slider", name="Weight").focus()
            page.keyboard.press(key)
            self.agrees(card, z, v, labels)
            assert words in card.locator(".say").inner_text()


class TestGallery:
    def networks(self):
        """Six images; the teacher takes the first, fourth and last for class 1, 1 and 2."""
        labels = [0, 1, 2, 0, 1, 0]
        teacher = np.full((6, K), -1.0)
        for i, k in enumerate([1, 1, 2, 1, 1, 2]):
            teacher[i, k] = 3.0 + i / 10
        student = np.full((6, K), 0.0)
        for i, k in enumerate(labels):
            student[i, k] = 2.0
        return labels, {"teacher": teacher, "student": student}

    def test_by_image_and_by_confusion(self, visit):
        labels, answers = self.networks()
        page = visit(gallery(pictures(6), labels, CLASSES, answers))
        card = page.locator(".card.gallery")
        choices = card.get_by_label("Show").locator("option").all_inner_texts()
        assert choices == ["all images", "“O” taken for “0” by the teacher (2)",
                           "“O” taken for “Q” by the teacher (1)"]
        card.get_by_label("Show").select_option("2")
        assert card.get_by_role("radio").count() == 1
        assert card.get_attribute("data-index") == "5"
        card.get_by_label("Show").select_option("1")
        assert card.get_by_role("radio").count() == 2
        card.get_by_role("radio").first.focus()
        page.keyboard.press("ArrowRight")
        assert card.get_attribute("data-index") == "3"
        assert card.get_attribute("data-right") == "student"
        assert "Image 4 is “O”. Right: student." in card.locator(".say").inner_text()

    def test_the_numbers_are_the_softmax(self, visit):
        labels, answers = self.networks()
        page = visit(gallery(None, labels, CLASSES, answers))
        card = page.locator(".card.gallery")
        for i in (0, 4):
            card.get_by_role("radio").nth(i).focus()
            page.keyboard.press("Space")
            for name, z in answers.items():
                p = np.exp(z[i]) / np.exp(z[i]).sum()
                rows = card.locator(f"[data-network={name}] tr").evaluate_all(
                    "rows => rows.map(row => ({...row.dataset}))")
                assert str(labels[i]) in {row["class"] for row in rows}
                assert len(rows) == 4
                for row in rows:
                    assert float(row["p"]) == pytest.approx(p[int(row["class"])], abs=1e-6)


class TestLayers:
    def test_the_slider_goes_through_the_steps(self, visit):
        t = likeness()
        page = visit(layers(t, ["conv1", "conv2"], ["stem", "layer1", "layer2"], steps=[0, 5, 40]))
        card = page.locator(".card.layers")
        card.get_by_role("slider", name="Epoch").focus()
        for step, key in ((2, "End"), (1, "ArrowLeft"), (0, "Home")):
            page.keyboard.press(key)
            assert card.get_attribute("data-step") == str(step)
            seen = card.locator("tbody td").evaluate_all("all => all.map(x => +x.dataset.value)")
            assert seen == pytest.approx(t[step].ravel(), abs=1e-6)
            r, c = np.unravel_index(t[step].argmax(), t[step].shape)
            assert card.get_attribute("data-best") == f"{r},{c}"
            assert f"{t[step].max():.2f}" in card.locator(".say").inner_text()


class TestTemperature:
    def test_keyboard_moves_the_temperature(self, visit):
        z, labels = teacher().astype(np.float32), [0, 1, 2]
        page = visit(temperature(z, CLASSES, pictures(), labels, T=4.0))
        card = page.locator(".card.temperature")
        z = z.astype(float)
        agree(card, z[0], 4.0, 0)
        slider = card.get_by_role("slider", name="Temperature")
        assert slider.get_attribute("aria-valuetext") == "T = 4"
        order = card.locator("tbody tr").evaluate_all("rows => rows.map(r => r.dataset.class)")
        slider.focus()
        page.keyboard.press("ArrowRight")
        agree(card, z[0], 4.1, 0)
        assert slider.get_attribute("aria-valuetext") == "T = 4.1"
        assert "At T = 4.1 the teacher gives" in card.locator(".say").inner_text()
        page.keyboard.press("Home")
        agree(card, z[0], 1.0, 0)
        page.keyboard.press("End")
        agree(card, z[0], 20.0, 0)
        for _ in range(5):
            page.keyboard.press("PageDown")
        numbers, _ = shown(card)
        agree(card, z[0], numbers["t"], 0)
        assert 1 < numbers["t"] < 20
        again = card.locator("tbody tr").evaluate_all("rows => rows.map(r => r.dataset.class)")
        assert again == order

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 25.0])
    def test_extreme_logits(self, visit, scale):
        z = teacher() * scale  # up to about 250: exp of it is beyond float64's sums
        page = visit(temperature(z, CLASSES, labels=[0, 1, 2], T=1.0))
        card = page.locator(".card.temperature")
        agree(card, np.array([[float(f"{v:.9g}") for v in row] for row in z])[0], 1.0, 0)
        assert "NaN" not in card.inner_text()
        assert "Infinity" not in card.inner_text()

    def test_another_image(self, visit):
        z, labels = teacher(), [3, 1, 2]
        page = visit(temperature(z, CLASSES, pictures(), labels, T=2.5))
        card = page.locator(".card.temperature")
        third = card.get_by_role("radio", name="Image 3: Q")
        third.check()
        agree(card, z[2], 2.5, 2)
        picture = card.locator("img.picture")
        assert picture.get_attribute("alt") == "Image 3, true class Q"
        assert picture.evaluate("i => i.complete && i.naturalWidth") == 28
        assert picture.evaluate("i => getComputedStyle(i).imageRendering") == "pixelated"
        page.keyboard.press("ArrowLeft")  # radio buttons: arrows move
        agree(card, z[1], 2.5, 1)
        box = third.locator("..").bounding_box()
        assert min(box["width"], box["height"]) >= 24

    def test_many_classes_share_a_bar(self, visit):
        z = teacher(2, 36)
        label = int(z[0].argmin())  # the least likely one is shown nevertheless
        page = visit(temperature(z, [f"class {k}" for k in range(36)], labels=[label, 0]))
        card = page.locator(".card.temperature")
        agree(card, z[0], 4.0, label)
        _, p = shown(card)
        assert len(p) == 9
        assert str(label) in p
        assert "28 others" in card.inner_text()
        mistake = f"but the teacher's first choice is “class {z[0].argmax()}”"
        assert mistake in card.locator(".say").inner_text()

    def test_without_labels_and_with_two_classes(self, visit):
        z = np.array([[3.0, 1.0]])
        page = visit(temperature(z, ["yes", "no"], T=2))
        card = page.locator(".card.temperature")
        assert float(card.get_attribute("data-wrong")) == pytest.approx(1 / (1 + np.e), abs=1e-9)
        assert card.get_attribute("data-ratio") is None
        assert card.locator("[name=image]").count() == 0
        assert "gives the classes besides “yes” 27" in card.locator(".say").inner_text()

    def test_sentences(self, visit):
        z = np.array([[12.0, 6.0, 5.0, 0, 0, 0, 0, 0, 0, 0]])
        page = visit(temperature(z, CLASSES, labels=[0], T=1))
        card = page.locator(".card.temperature")
        say = card.locator(".say")
        assert "hardly more than a plain label says" in say.inner_text()
        card.get_by_role("slider").focus()
        page.keyboard.press("End")
        assert "the differences fade" in say.inner_text()
        page.wait_for_function(
            "document.querySelector('.kdx').shadowRoot.querySelector('[role=status]')"
            ".textContent.includes('the differences fade')"
        )

    def test_logarithmic_scale(self, visit):
        z = teacher()
        page = visit(temperature(z, CLASSES, labels=[0, 1, 2], T=2))
        card = page.locator(".card.temperature")
        card.get_by_role("switch", name="Logarithmic scale").check()
        _, p = shown(card)
        k, value = max(p.items(), key=lambda item: item[1])
        page.wait_for_timeout(200)  # the bar moves for 0.12 seconds
        fill = card.locator(f"tr[data-class='{k}'] .fill").bounding_box()
        lane = card.locator(".lane").first.bounding_box()
        part = fill["width"] / lane["width"]
        assert part == pytest.approx(1 + np.log10(value) / 6, abs=0.01)
        agree(card, z[0], 2, 0)

    def test_two_copies_in_a_page(self, visit):
        """The same output twice (JupyterLab can show a cell's output in a second view)."""
        one = temperature(teacher(), CLASSES, labels=[0, 1, 2])
        page = visit(one, one)
        cards = page.locator(".card.temperature")
        assert cards.count() == 2
        cards.nth(1).get_by_role("slider").focus()
        page.keyboard.press("End")
        assert cards.nth(0).get_attribute("data-t") == "4"
        assert cards.nth(1).get_attribute("data-t") == "20"
        cards.nth(0).get_by_role("radio").nth(1).check()
        assert cards.nth(1).get_attribute("data-index") == "0"


class TestAnswers:
    def test_the_order_of_the_answers_tells_nothing(self):
        """It does not depend on how the author wrote them, and the right one is anywhere."""
        places = []
        for k in range(60):
            asked = question("Which?", CHOICES, f"01/{k}", answer="It flattens it.").data
            turned = question("Which?", dict(reversed(CHOICES.items())), f"01/{k}",
                              answer="It flattens it.").data
            assert asked == turned
            places.append([choice["right"] for choice in asked["choices"]].index(True))
        assert all(10 <= places.count(place) <= 30 for place in range(3))

    def test_a_bet_on_the_printed_end_of_an_interval_is_inside(self, visit):
        number = bet("By how much?", (0, 10), "01/end", unit="points", step=0.1)
        result = score(number, 1.69, interval=(1.3235, 2.0665), digits=1)
        assert "1.3 to 2.1" in str(result)
        page = visit(number, result)
        slider = page.locator(".card.bet").get_by_role("slider", name="Your bet")
        for value in ("1.3", "2.1"):
            slider.fill(value)
            assert "your bet lies inside the interval" in page.locator(".card.score").inner_text()

    def test_every_answer_shows_its_explanation(self, visit):
        asked = question("What does T = 20 do?", CHOICES, "01/flat", answer="It flattens it.")
        order = [choice["text"] for choice in asked.data["choices"]]
        page = visit(asked)
        card = page.locator(".card.question")
        card.get_by_role("button", name="Check").click()
        assert "Choose an answer first." in card.inner_text()
        for text, why in CHOICES.items():
            assert why not in card.inner_text()
            card.get_by_role("radio", name=text).check()
            card.get_by_role("button", name="Check").click()
            explanation = card.locator(".why").nth(order.index(text)).inner_text()
            assert explanation == ("✓ Right. " if text == "It flattens it." else "✗ No. ") + why
        assert "1 of 1 question right at the first try" in card.inner_text()
        page.wait_for_function(
            "document.querySelector('.kdx').shadowRoot.querySelector('[role=status]')"
            ".textContent.startsWith('No. No!')"
        )

    def test_keyboard_score_and_reload(self, visit):
        cards = one_of_each()[2:4]
        page = visit(*cards)
        first, second = page.locator(".card.question").all()
        order = [choice["text"] for choice in cards[0].data["choices"]]
        at = order.index("It sharpens it.")  # wrong
        first.get_by_role("radio").nth((at - 1) % 3).focus()
        for key in ("Space", "ArrowDown", "Enter"):  # the next answer; Enter checks
            page.keyboard.press(key)
        assert first.locator("[data-right=false]").count() == 1
        second.get_by_role("radio", name="Nothing.").check()
        second.get_by_role("button", name="Check").click()
        for card in (first, second):  # one score for the chapter
            assert "Score in this chapter: 1 of 2 questions right" in card.inner_text()
        page.reload()
        first, second = page.locator(".card.question").all()
        assert "Score in this chapter: 1 of 2 questions right" in first.inner_text()
        assert first.get_by_role("radio", name="It sharpens it.").is_checked()
        assert second.locator(".why:visible").count() == 1
        first.get_by_role("button", name="Explain every answer").click()
        assert first.locator(".why:visible").count() == 3
        first.get_by_role("button", name="Start again").click()
        assert first.locator(".why:visible").count() == 0
        assert "Score in this chapter: 1 of 1 question right" in second.inner_text()

    def test_bet_then_score_across_a_reload(self, visit):
        number, choice, *scores = one_of_each()[4:]
        page = visit(number, choice, *scores)
        assert "No bet yet" in page.locator(".card.bet").first.inner_text()
        for card in page.locator(".card.score").all():
            assert "You did not bet" in card.inner_text()
        slider = page.locator(".card.bet").first.get_by_role("slider", name="Your bet")
        slider.focus()
        for _ in range(16):
            page.keyboard.press("ArrowLeft")
        page.locator(".card.bet").nth(1).get_by_role("radio", name="On all alike").check()
        for _ in range(2):
            first, second = page.locator(".card.score").all()
            text = first.inner_text().replace("\u00a0", " ")
            assert (
                "You bet 7.0 points. We measured 13.2 points (95 % interval 11.9 to 14.5)" in text
            )
            assert "your bet was 6.2 points too low." in text
            assert float(first.get_attribute("data-off")) == pytest.approx(7 - 13.24)
            assert "You bet on “On all alike”. That is what we" in second.inner_text()
            page.reload()
        slider = page.locator(".card.bet").first.get_by_role("slider")
        assert slider.input_value() == "7"
        slider.focus()
        for _ in range(13):
            page.keyboard.press("ArrowRight")
        assert "your bet lies inside the interval" in page.locator(".card.score").first.inner_text()

    def test_a_bet_that_the_interval_holds_is_not_wrong(self, visit):
        where = bet("Who gains?", ["O", "X", "Both alike"], "01/three")
        undecided = score(where, ["O", "Both alike"])
        assert "These runs cannot tell: “O” or “Both alike”." in str(undecided)
        page = visit(where, undecided)
        for choice, good, said in (("O", 1, "You bet on “O”. These runs cannot rule it out."),
                                   ("Both alike", 1, "cannot rule it out"),
                                   ("X", 0, "cannot tell: “O” or “Both alike”.")):
            page.locator(".card.bet").get_by_role("radio", name=choice, exact=True).check()
            card = page.locator(".card.score")
            assert said in card.inner_text()
            assert card.locator(".verdict.good").count() == good

    def test_betting_where_it_is_scored(self, visit):
        """In Colab a score cannot see the bet: it asks again, and does not score on the way."""
        number, choice = one_of_each()[4:6]
        page = visit(
            score(number, 13.24),
            score(choice, "On *all* alike"),
            score("01/free", 0.34, unit="nats", tolerance=0.05),
        )
        first, second, third = page.locator(".card.score").all()
        first.get_by_role("slider", name="Your bet").focus()
        page.keyboard.press("ArrowRight")
        assert "You did not bet" in first.inner_text()
        assert "13.2" not in first.inner_text()
        first.get_by_role("button", name="Place the bet").click()
        assert "your bet was 2.3 points too high" in first.inner_text().replace("\u00a0", " ")
        second.get_by_role("radio").nth(1).check()
        second.get_by_role("button", name="Place the bet").click()
        assert "We measured: “On all alike”." in second.inner_text()
        third.get_by_text("Show what we measured").click()
        assert "We measured 0.340 nats." in third.inner_text()
        third.get_by_role("spinbutton", name="Your bet").fill("0.3")
        page.keyboard.press("Enter")
        assert "well predicted" in third.inner_text()

    def test_colab(self, chromium):
        """There each output is a page of its own on another host, with a memory of its own."""
        number = one_of_each()[4]
        context = chromium.new_context()
        text = page_of(score(number, 13.24))
        context.route("**/*", lambda route: route.fulfill(body=text, content_type="text/html"))
        page = context.new_page()
        page.goto("https://abc-0-colab.googleusercontent.com/outputframe.html")
        card = page.locator(".card.score")
        assert "Colab gives every output a memory of its own" in card.inner_text()
        card.get_by_role("button", name="Place the bet").click()
        assert "You bet 15.0" in card.inner_text()
        context.close()

    def test_without_storage(self, visit, tmp_path):
        """Where the browser refuses storage, answers live as long as the page."""
        number, *_ = one_of_each()[4:]
        file = tmp_path / "refused.html"
        refuse = "Object.defineProperty(window, 'localStorage', {get() { throw new Error(); }});"
        text = page_of(number, score(number, 13.24), one_of_each()[2])
        text = text.replace("<body>", f"<body><script>{refuse}</script>")
        file.write_text(text, encoding="utf-8")
        page = visit(file=file)
        page.locator(".card.bet").get_by_role("button", name="Place the bet").click()
        assert "You bet 15.0" in page.locator(".card.score").inner_text()
        right = page.locator(".card.question").get_by_role("radio", name="It flattens it.")
        right.check()
        page.locator(".card.question").get_by_role("button", name="Check").click()
        assert "1 of 1 question right" in page.locator(".card.question").inner_text()


class TestLooks:
    @pytest.mark.parametrize("width", [400, 1280])
    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_axe_finds_nothing(self, visit, theme, width):
        page = visit(*one_of_each(), theme=theme, width=width)
        targets = [node["target"] for rule in axe(page)["passes"] for node in rule["nodes"]]
        assert any(isinstance(path[0], list) for path in targets), "axe did not look inside"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # Once more when everything has been answered.
        page.get_by_role("button", name="Check").last.scroll_into_view_if_needed()
        for card in page.locator(".card.question").all():
            card.get_by_role("radio").nth(1).check()
            card.get_by_role("button", name="Check").click()
            card.get_by_role("button", name="Explain every answer").click()
        page.locator(".card.bet").first.get_by_role("button", name="Place the bet").click()
        page.locator(".card.bet").nth(1).get_by_role("radio").first.check()
        page.get_by_role("switch").first.check()
        axe(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    @pytest.mark.parametrize(
        ("mark", "scheme", "dark"),
        [
            ("document.documentElement.dataset.theme = 'dark'", "light", True),
            ("document.documentElement.dataset.theme = 'light'", "dark", False),
            ("document.body.dataset.jpThemeLight = 'false'", "light", True),
            ("document.body.dataset.jpThemeLight = 'true'", "dark", False),
            ("document.documentElement.setAttribute('theme', 'dark')", "light", True),
            ("0", "dark", True),
            ("0", "light", False),
        ],
    )
    def test_dark_mode_of_every_host(self, visit, mark, scheme, dark):
        page = visit(one_of_each()[2], color_scheme=scheme)
        page.evaluate(f"delete document.documentElement.dataset.theme; {mark}")
        ground = page.locator(".card").evaluate("e => getComputedStyle(e).backgroundColor")
        assert ground == ("rgb(26, 30, 35)" if dark else "rgb(255, 255, 255)")

    def test_no_script_no_loss(self, visit):
        page = visit(*one_of_each(), java_script_enabled=False)
        assert page.locator(".kdx").count() == 0
        page.get_by_text("It flattens it.").first.click()
        assert page.get_by_text("Logits shrink.").first.is_visible()
        assert page.get_by_text("We measured 13.2 points").is_visible()
        assert page.locator("table img").count() == 9

    def test_reduced_motion(self, visit):
        page = visit(one_of_each()[0], reduced_motion="reduce")
        fill = page.locator(".fill").first
        assert fill.evaluate("e => getComputedStyle(e).transitionDuration") == "0s"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_in_a_real_book(visit, book, theme):
    page = visit(file=book, width=1280, color_scheme=theme)
    page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
    page.locator(".card").first.wait_for()
    assert page.locator(".card").count() == len(one_of_each())
    page.get_by_role("slider", name="Temperature").first.focus()
    page.keyboard.press("ArrowRight")
    agree(page.locator(".card.temperature").first, teacher()[0], 4.1, 0)
    axe(page)
    page.set_viewport_size({"width": 400, "height": 800})
    axe(page)


@pytest.fixture(scope="module")
def book(chromium, tmp_path_factory):
    """A Jupyter Book of one notebook, whose outputs are the cards."""
    pytest.importorskip("jupyter_book", reason="Jupyter Book is not installed")
    nbformat = pytest.importorskip("nbformat")
    folder = tmp_path_factory.mktemp("book")
    v4 = nbformat.v4
    cells = [v4.new_markdown_cell("# Cards")]
    for i, card in enumerate(one_of_each(), start=1):
        output = v4.new_output("execute_result", card._repr_mimebundle_(), execution_count=i)
        cells.append(v4.new_code_cell("card", execution_count=i, outputs=[output]))
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    nbformat.write(v4.new_notebook(cells=cells, metadata=metadata), folder / "page.ipynb")
    (folder / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    # The extensions by name: by default Jupyter Book takes some that load scripts from elsewhere.
    (folder / "_config.yml").write_text(
        "title: Cards\nexecute: {execute_notebooks: 'off'}\n"
        "sphinx:\n  recursive_update: true\n  config:\n    nb_ipywidgets_js: {}\n"
        "    html_context: {default_mode: auto}\n"
        "    extensions: [myst_nb, jupyter_book, sphinx_external_toc, sphinx_book_theme,"
        " sphinx_comments, sphinx_copybutton, sphinx_design, sphinx_togglebutton]\n"
    )
    command = [
        sys.executable,
        "-c",
        "from jupyter_book.cli.main import main; main()",
        "build",
        "-qW",
    ]
    done = subprocess.run(
        [*command, str(folder)], capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "_build" / "html" / "page.html"
