"""The built book: complete, and nothing in it comes from another host."""

import gzip
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

bs4 = pytest.importorskip("bs4")
yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(book) -> dict[Path, bs4.BeautifulSoup]:
    """Every page, parsed. The front door is only a redirect; it has a test of its own."""
    paths = [p for p in book.rglob("*.html") if "_static" not in p.relative_to(book).parts]
    parse = {p: bs4.BeautifulSoup(p.read_text("utf-8"), "html.parser") for p in paths}
    parse.pop(book / "index.html")
    return parse


def remote(address: str) -> bool:
    return address.startswith(("http:", "https:", "//"))


def loaded(page) -> list[str]:
    """The addresses that a browser fetches by itself when it shows the page."""
    found = [tag["src"] for tag in page.select("[src]")]
    found += [tag["data"] for tag in page.select("object[data]")]
    found += [part.split()[0] for tag in page.select("[srcset]")
              for part in tag["srcset"].split(",")]
    fetching = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch",
                "modulepreload", "manifest", "apple-touch-icon"}
    found += [tag["href"] for tag in page.select("link[href]") if fetching & set(tag["rel"])]
    found += re.findall(r"url\(\s*['\"]?([^'\")]+)", " ".join(
        [tag.get_text() for tag in page.select("style")]
        + [tag["style"] for tag in page.select("[style]")]))
    return found


def test_every_chapter_is_there(book):
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
    names = [contents["root"]]
    names += [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    assert [name for name in names if not (book / f"{name}.html").is_file()] == []


def test_front_door_leads_to_the_first_page(book):
    target = re.search(r"url=([^\"]+)\"", (book / "index.html").read_text("utf-8"))
    assert (book / target[1]).is_file()


NO_LOSSES = {"Loss", "FeatureLoss", "Objective", "as_objective", "as_map", "as_tokens",
             "as_vectors", "chunked"}


def test_every_loss_has_its_formula_paper_and_example(pages, book):
    from kdcourse import losses

    api = [page for path, page in pages.items() if path.parent.name == "api"]
    for name in ({"kd", *losses.__all__}) - NO_LOSSES:
        (entry,) = [found for page in api if (found := page.find(id=f"kdcourse.losses.{name}"))]
        text = entry.parent.get_text()
        if name.islower() and name not in ("hinton", "margins"):
            assert entry.parent.select("div.math"), f"{name} has no formula"
            assert ">>>" in text, f"{name} has no example"
            if name not in ("cross_entropy", "squared_error"):
                assert re.search(r"(19|20)\d\d", text), f"{name} has no paper"


def test_the_number_of_a_chapter_is_that_of_its_file(pages):
    for path, page in pages.items():
        links = [(link, found) for link in page.select("nav.bd-links a")
                 if (found := re.search(r"(?:^|/)(\d\d)_\w+\.html$", link.get("href", "")))]
        assert len(links) >= 10 or "_modules" in str(path) or path.name in (
            "search.html", "genindex.html", "py-modindex.html"), path.name
        for link, found in links:
            assert link.get_text().strip().startswith(f"{int(found[1])}. "), path.name


def test_every_chapter_that_a_text_names_is_linked(pages):
    names = {int(path.name[:2]): path.stem for path in pages if re.match(r"\d\d_", path.name)}
    seen = 0
    for path, page in pages.items():
        if path.parent.name in ("api", "losses") or "_modules" in path.parts:
            continue  # docstrings
        for text in page.select_one("article, body").find_all(string=re.compile(r"[Cc]hapter\s\d")):
            if text.find_parent(["a", "h1", "h2", "h3", "h4", "code", "pre", "title", "script",
                                 "caption", "nav"]):
                continue
            for number in re.findall(r"[Cc]hapter\s(\d+)", text):
                assert names.get(int(number)) in (None, path.stem), f"{path.name}: {text}"
        seen += len(page.find_all("a", string=re.compile(r"^[Cc]hapter\s\d+$")))
    assert seen > 50


def test_every_loss_stands_in_the_tables(pages):
    from kdcourse import losses

    (page,) = [page for path, page in pages.items()
               if path.name == "losses.html" and path.parent.name == "book"]
    shown = {link.get_text() for link in page.select("table a")}
    assert set(losses.__all__) - NO_LOSSES - {"hinton", "margins"} <= shown


def test_pages_load_nothing_from_other_hosts(pages, book):
    found = [(str(path.relative_to(book)), address) for path, page in pages.items()
             for address in loaded(page) if remote(address)]
    assert found == []


def test_style_sheets_load_nothing_from_other_hosts(book):
    found = []
    for path in book.rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")\s]+)", path.read_text("utf-8"))
        found += [(path.name, address) for address in addresses if remote(address)]
    assert found == []


def test_everything_that_pages_load_exists(pages, book):
    missing = []
    for path, page in pages.items():
        for address in loaded(page):
            local = unquote(urlsplit(address).path)
            if not urlsplit(address).scheme and not (path.parent / local).is_file():
                missing.append((str(path.relative_to(book)), address))
    assert missing == []


def test_internal_links_and_anchors_resolve(pages, book):
    places = {path: {tag["id"] for tag in page.select("[id]")}
              | {tag["name"] for tag in page.select("a[name]")} for path, page in pages.items()}
    broken = []
    for path, page in pages.items():
        for link in page.select("a[href]"):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc or link["href"] == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            known = not anchor or anchor in places.get(target, [anchor])
            if not (target.is_file() and known):
                broken.append((str(path.relative_to(book)), link["href"]))
    assert broken == []


def test_every_page_says_what_it_is(pages, book):
    for path, page in pages.items():
        assert page.title.get_text(strip=True), path
        assert page.html.get("lang"), path
        titles = page.select("h1:not(#jb-print-docs-body h1)")  # the theme has one for paper
        assert len(titles) == 1, path


def test_markdown_became_pages(pages):
    """Tables, formulas and links, also in what a cell printed."""
    wrong = []
    for path, page in pages.items():
        article = bs4.BeautifulSoup(str(page.select_one("article")), "html.parser")
        for code in article.select("pre, code, script, style, .math, textarea, [data-kdx]"):
            code.decompose()
        text = article.get_text(" ")
        wrong += [f"{path.name}: {found[0]}" for found in re.finditer(
            r"\|[-—:]+\|.{20}|(?<!\w)\*\*\w.{20}|\]\(\S.{20}|\$[\w\\].{20}|\{[a-z:]+\}`.{9}", text)]
    assert not wrong, "\n".join(wrong)


def test_every_picture_has_a_text(pages, book):
    bare = [(path.name, tag["src"][:60]) for path, page in pages.items()
            for tag in page.select("article img") if not tag.get("alt", "").strip()
            or tag["alt"].endswith((".png", ".svg"))]  # without a text, Sphinx gives the file name
    assert bare == []


def test_search_finds_the_first_chapter(book):
    index = (book / "searchindex.js").read_text("utf-8")
    assert "notebooks/01_hinton" in index
    assert '"temperatur"' in index or "temperatur:" in index  # the stem of "temperature"


def test_the_first_use_of_a_term_leads_to_the_glossary_and_the_others_do_not(pages):
    for path, page in pages.items():
        if not re.fullmatch(r"0\d_.*", path.stem):
            continue
        links = [word.parent for word in page.select(".bd-article a > .glossary-link")]
        targets = [link["href"].partition("glossary.html#")[2] for link in links]
        assert {"term-Student", "term-Teacher", "term-Seed"} <= set(targets), path.name
        assert len(set(targets)) == len(targets), path.name
        for link in links:
            assert not link.find_parents(["h1", "h2", "h3", "pre", "code"]), link


def over_the_wire(path, page) -> int:
    """Bytes of a page with its scripts and styles, compressed as servers do; figures excepted."""
    code = [urlsplit(address).path for address in loaded(page)]
    files = {path} | {(path.parent / unquote(name)).resolve() for name in code
                      if name.endswith((".js", ".css"))}
    return sum(len(gzip.compress(file.read_bytes())) for file in files)


def test_pages_are_light(pages):
    heavy = {path.name: size for path, page in pages.items()
             if (size := over_the_wire(path, page)) > 1.5e6}
    assert not heavy


def test_every_chapter_can_be_launched_downloaded_and_read_as_source(pages):
    for path, page in pages.items():
        if path.parent.name != "notebooks":
            continue
        links = {link["href"] for link in page.select(".header-article-items a[href]")}
        for start in ("https://colab.research.google.com/github/kdcourse/kdcourse/blob/main/",
                      "https://mybinder.org/v2/gh/kdcourse/kdcourse/main?",
                      "https://github.com/kdcourse/kdcourse"):
            assert any(link.startswith(start) for link in links), (path.name, start)
        notebook = path.with_suffix(".ipynb").name
        (download,) = [link for link in links if link.endswith(notebook)
                       and not link.startswith("http")]
        assert (path.parent / download).resolve().is_file()


def test_every_page_leads_to_people(pages):
    for path, page in pages.items():
        if path.stem not in ("search", "genindex"):
            assert page.select_one(".discuss a[href$='/discussions']"), path.name
