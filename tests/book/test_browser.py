"""Every page in a real browser, opened from disk: light on a desktop and dark on a phone.

Pictures of the pages cost more than all else that is done here. With KDCOURSE_SCREENSHOTS=1 they
are made, in _build/screenshots, for a person to look at, and in all four pairs of theme and width.
"""

import json
import math
import os
import re
import shutil
from pathlib import Path

import pytest
from test_editions import FIRST_EDITION

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
SCREENSHOTS = (Path(__file__).parents[2] / "_build" / "screenshots"
               if os.environ.get("KDCOURSE_SCREENSHOTS") else None)

# WCAG 2.2 AA, and beyond it what axe calls best practice. No rule is switched off. `preload` only
# spares axe from reading style sheets a second time, which browsers refuse on pages from disk.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice", "experimental"]
AXE = {
    "resultTypes": ["violations"],
    "preload": False,
    "runOnly": {"type": "tag", "values": RULES},
}

# Code has thousands of elements, and looks alike everywhere: its contrast is measured on these
# pages only. All other rules see the code of every page.
WITH_CODE = {"notebooks_01_hinton", "book_own_model"}

# Formulas are drawn, folds are open and pictures are loaded before we look.
READY = """async () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  if (window.MathJax?.startup) await MathJax.startup.promise;
  for (const image of document.images) image.loading = "eager";
  await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
}"""

LOOK = """() => ({
  theme: document.documentElement.dataset.theme,
  sideways: document.documentElement.scrollWidth - window.innerWidth,
  height: document.documentElement.scrollHeight,
  broken: [...document.images].filter(i => !i.naturalWidth).map(i => i.src.slice(-80)),
  formulas: document.querySelectorAll(".math").length,
  drawn: document.querySelectorAll("mjx-container").length,
  errors: document.querySelectorAll("[data-mjx-error], mjx-merror").length,
  cut: [...document.querySelectorAll("div.cell_input pre")].filter(
    pre => !pre.closest("details") && pre.scrollWidth > pre.clientWidth + 1).length,
  asleep: document.querySelectorAll("[data-kdx]:not([data-ready])").length,
})"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tool:
        names = ("chromium", "chromium-browser", "google-chrome", "chrome")
        candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, names)]
        candidates += [tool.chromium.executable_path]  # playwright's own, where it was installed
        program = next((path for path in candidates if path and Path(path).is_file()), None)
        if program is None:
            pytest.skip("No Chromium found: install one, or set CHROMIUM to its path, and the "
                        "book is tested in a browser as well.")
        # The switches keep the browser itself from talking to its maker.
        quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update",
                 "--disable-background-networking", "--disable-sync"]
        browser = tool.chromium.launch(executable_path=program, args=quiet)
        yield browser
        browser.close()


def look_at(context, path: Path, name: str, mode: str, width: int) -> list[str]:
    """Open one page; return what is wrong with it."""
    wrong = []
    page = context.new_page()
    page.set_default_timeout(120_000)  # a busy machine is no fault of the page
    page.on("console", lambda m: m.type == "error" and wrong.append(f"console: {m.text}"))
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("requestfailed", lambda r: wrong.append(f"not found: {r.url[-80:]}"))
    page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:"))
            or wrong.append(f"asks another host: {r.url}"))
    page.goto(path.as_uri())
    page.evaluate(READY)
    page.wait_for_timeout(100)  # explorables draw in the next frame
    seen = page.evaluate(LOOK)
    if SCREENSHOTS:  # JPEG is quicker, but knows no picture that is higher than this.
        kind = {"type": "jpeg", "quality": 80} if seen["height"] < 65_000 else {"type": "png"}
        path = SCREENSHOTS / f"{name}-{mode}-{width}.{kind['type']}"
        assert page.screenshot(path=path, full_page=True, **kind)
    code = None if name in WITH_CODE else {"exclude": [[".highlight"]]}
    broken = axe.Axe().run(page, options=AXE | {
        "rules": {"color-contrast": {"enabled": False}}}).response["violations"]
    broken += axe.Axe().run(page, context=code, options=AXE | {
        "runOnly": {"type": "rule", "values": ["color-contrast"]}}).response["violations"]
    # A zoom of 200 % leaves half of the width. 320: WCAG 1.4.10, and wider fonts than ours.
    page.set_viewport_size({"width": 640 if width == 1280 else 320, "height": 450})
    seen["sideways"] = max(seen["sideways"], page.evaluate(LOOK)["sideways"])

    number = name.removeprefix("notebooks_")[:2]
    if width == 1280 and number.isdigit() and number not in FIRST_EDITION and seen["cut"]:
        wrong.append(f"{seen['cut']} cells whose lines are cut")
    if seen["theme"] != mode:
        wrong.append(f"shown in {seen['theme']}")
    if seen["sideways"] > 0:
        wrong.append(f"scrolls sideways by {seen['sideways']} pixels")
    if seen["drawn"] < seen["formulas"] or seen["errors"]:
        wrong.append(f"formulas: {seen['drawn']} of {seen['formulas']}, {seen['errors']} errors")
    if seen["asleep"]:
        wrong.append(f"{seen['asleep']} explorables do not work")
    wrong += [f"picture missing: {source}" for source in seen["broken"]]
    for rule in broken:
        places = [" ".join(map(str, node["target"])) for node in rule["nodes"][:3]]
        wrong.append(f"accessibility, {rule['id']}: {rule['help']} ({'; '.join(places)})")
    page.close()
    return [f"{name}: {fault}" for fault in wrong]


@pytest.mark.parametrize(("mode", "width"), [
    ("light", 1280), ("dark", 400), *([("light", 400), ("dark", 1280)] if SCREENSHOTS else [])])
def test_every_page(browser, book, mode, width):
    if SCREENSHOTS:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    context = browser.new_context(
        color_scheme=mode, viewport={"width": width, "height": 900}, reduced_motion="reduce"
    )
    wrong = []
    for path in sorted(book.rglob("*.html")):
        name = "_".join(path.relative_to(book).with_suffix("").parts)
        if not name.startswith("_static") and name != "index":  # the index only redirects
            wrong += look_at(context, path, name, mode, width)
    context.close()
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["book/intro", "notebooks/01_hinton"])
def test_text_is_there_before_any_script(browser, book, name):
    page = browser.new_page()
    page.route("**/*.js*", lambda route: None)  # no script ever arrives
    page.goto((book / f"{name}.html").as_uri(), wait_until="commit")
    assert page.locator("article.bd-article section h1").is_visible()
    page.locator("footer .discuss").wait_for()  # down to the last line
    page.unroute_all(behavior="ignoreErrors")
    page.close()


def test_the_quiz_of_every_chapter_scores(browser, book):
    page = browser.new_page()
    for path in sorted(book.glob("notebooks/[0-9]*.html")):
        page.goto(path.as_uri())
        cards = page.locator(".card.question")
        assert cards.count() == 4, path.name
        for card in cards.all():
            card.get_by_role("radio").first.check()
            card.get_by_role("button", name="Check").click()
            assert card.locator(".why:visible").count() >= 1, path.name
        assert " of 4 questions right" in cards.last.inner_text(), path.name
    page.close()


def test_front_door(browser, book):
    page = browser.new_page()
    page.goto((book / "index.html").as_uri())
    page.wait_for_url("**/book/intro.html")
    page.close()


def test_theme_button_changes_the_theme(browser, book):
    context = browser.new_context(color_scheme="light", viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto((book / "book" / "intro.html").as_uri())
    before = page.evaluate("document.documentElement.dataset.theme")
    seen = {before}
    for _ in range(3):
        page.get_by_role("button", name="Color mode").click()
        seen.add(page.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}
    context.close()


SEARCHES = {
    "temperature": "01_hinton", "Hinton": "01_hinton", "transfer set": "02_missing_class",
    "label smoothing": "01_hinton", "batchmean": "03_getting_it_right",
    "doctor": "03_getting_it_right", "FitNets": "04_features", "FSP": "04_features",
    "VID": "04_features", "OFD": "04_features", "ReviewKD": "04_features", "CKA": "04_features",
    "RKD": "05_relations", "CRD": "05_relations", "PKT": "05_relations", "recall": "05_relations",
    "rollout": "06_vit_and_convnets", "ShuffleNetV2": "cifar", "DeiT": "07_deit",
    "distillation token": "07_deit", "born-again": "08_self_distillation",
    "early exits": "08_self_distillation", "virtual teacher": "08_self_distillation",
    "ONNX": "own_model", "Colab": "run", "factorial": "11_answer_apart",
    "z-scores": "10_logits_beyond_kl", "CutMix": "12_recipe",
}


def test_search_finds_methods_and_abbreviations_from_disk(browser, book):
    page, missing = browser.new_page(), []
    for term, expected in SEARCHES.items():
        page.goto((book / "search.html").as_uri() + "?q=" + term.replace(" ", "+"))
        page.wait_for_function(  # results appear one after the other
            "/finished|did not match/.test(document.querySelector('#search-results').innerText)")
        links = page.eval_on_selector_all("#search-results li a", "all => all.map(a => a.href)")
        if not any(f"/{expected}.html" in link for link in links):
            missing.append(f"{term}: {expected} is not among {len(links)} results")
    page.close()
    assert not missing, "\n".join(missing)


# The front page: its drawing, and a slider that works.

CARD = """card => ({
  T: +card.dataset.t,
  p: Object.fromEntries([...card.querySelectorAll("tbody tr")].map(
    row => [row.dataset.class, +row.dataset.p])),
  bars: Object.fromEntries([...card.querySelectorAll("tbody tr")].map(row => [row.dataset.class,
    row.querySelector(".fill").getBoundingClientRect().width
      / row.querySelector(".lane").getBoundingClientRect().width])),
})"""


@pytest.fixture
def front(browser, book):
    """Open the front page, by its settings; gives the page."""
    opened = []

    def visit(width=1280, **settings):
        opened.append(browser.new_context(
            viewport={"width": width, "height": 900}, reduced_motion="reduce", **settings))
        page = opened[-1].new_page()
        page.set_default_timeout(120_000)
        page.goto((book / "book" / "intro.html").as_uri())
        return page

    yield visit
    for context in opened:
        context.close()


def softened(T: float) -> dict[str, float]:
    """Class number: the probability at T, from the logits that chapter 1 has stored."""
    text = (Path(__file__).parents[2] / "notebooks" / "01_hinton.ipynb").read_text("utf-8")
    pages = ["".join(output["data"]["text/html"]) for cell in json.loads(text)["cells"]
             for output in cell.get("outputs", []) if "text/html" in output.get("data", {})]
    (page,) = [page for page in pages if 'data-kdx="temperature-' in page]
    data = json.loads(re.search(r"const state = (\{.*\});", page)[1])["data"]
    z = data["logits"][data["labels"].index(data["classes"].index("B"))]
    weights = [math.exp((value - max(z)) / T) for value in z]
    return {str(k): weight / sum(weights) for k, weight in enumerate(weights)}


def test_the_slider_of_the_front_page_moves_the_bars(front):
    page = front()
    card = page.locator("article .card.temperature")
    slider = card.get_by_role("slider", name="Temperature")
    seen = {}
    for key in ("Home", "ArrowRight", "PageUp", "End"):
        slider.focus()
        page.keyboard.press(key)
        now = card.evaluate(CARD)
        expected = softened(now["T"])
        for name, p in now["p"].items():
            if name != "rest":
                assert p == pytest.approx(expected[name], abs=1e-6)
            assert now["bars"][name] == pytest.approx(p, abs=0.01), "a bar is as long as its number"
        seen[now["T"]] = now["bars"]["11"]  # of the true class
    assert min(seen) == 1 and max(seen) == 20
    assert list(seen.values()) == sorted(seen.values(), reverse=True)
    assert max(seen.values()) > 0.95 and min(seen.values()) < 0.1


def test_the_slider_of_the_front_page_can_be_touched(front):
    page = front(400, has_touch=True)
    card = page.locator("article .card.temperature")
    slider = card.get_by_role("slider", name="Temperature")
    box = slider.bounding_box()
    assert box["height"] >= 24, "WCAG 2.2, target size"
    slider.tap(position={"x": box["width"] - 5, "y": box["height"] / 2})
    assert card.evaluate(CARD)["T"] == 20
    slider.tap(position={"x": 5, "y": box["height"] / 2})
    assert card.evaluate(CARD)["T"] == 1


@pytest.mark.parametrize("width", [320, 400, 768, 1280])
def test_nothing_moves_with_the_slider_and_nothing_is_too_small(front, width):
    page = front(width)
    slider = page.locator("article .card.temperature").get_by_role("slider")
    tops = slider.evaluate("""slider => {
      const after = document.querySelector("#does-it-help"), tops = new Set();
      const bars = slider.getRootNode().querySelector("tbody");
      for (let i = 0; i <= +slider.max; i++) {
        slider.value = i;
        slider.dispatchEvent(new Event("input"));
        tops.add([after, bars].map(e => Math.round(e.getBoundingClientRect().top)).join());
      }
      return [...tops];
    }""")
    assert len(tops) == 1, "the text above the bars changes its height"
    drawing = page.locator("article svg.kd-loop")
    small = drawing.evaluate("""svg => {
      const frame = svg.getBoundingClientRect();
      return [...svg.querySelectorAll("text")].filter(text => {
        const box = text.getBoundingClientRect();
        const size = parseFloat(getComputedStyle(text).fontSize) * frame.width / 340;
        return size < 10.5 || box.left < frame.left || box.right > frame.right
          || box.bottom > frame.bottom;
      }).map(text => text.textContent);
    }""")
    assert small == []
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


def test_the_front_page_begins_with_what_it_is_for_whom_and_a_link(front):
    page = front()
    for words in ("Knowledge distillation", "It is for people who"):
        box = page.locator("article p", has_text=words).first.bounding_box()
        assert box["y"] + box["height"] < 900, words
    link = page.get_by_role("link", name="Start with chapter 1").first
    assert link.bounding_box()["y"] < 900


def test_the_front_page_without_scripts(front):
    page = front(java_script_enabled=False)
    assert page.locator("article svg.kd-loop").is_visible()
    rows = page.locator("article .front-card table tbody tr")
    assert rows.count() == 1 and "% B" in rows.first.inner_text()
    assert page.get_by_role("slider").count() == 0
