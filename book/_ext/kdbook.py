"""What the book needs beyond its extensions: readable arguments, the table of what was run, links
to the glossary, and small repairs to the HTML."""

import inspect
import itertools
import json
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).parents[2]


def _words(values) -> str:
    return ", ".join(sorted({str(value) for value in values}))


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


class Runs(SphinxDirective):
    """What was really run for each chapter, read from `kdcourse/results`."""

    def run(self):
        lines = ["| chapter | runs | seeds | all runs took | opens in | hardware | torch | days |",
                 "|---|---|---|---|---|---|---|---|"]
        for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
            results = ROOT / "kdcourse" / "results" / f"{path.name[:2]}.json"
            self.env.note_dependency(str(results))
            found = json.loads(results.read_text("utf-8"))
            rows, opened = found["rows"], found.get("opened")
            days = sorted({row["date"] for row in rows})
            cells = [
                f"[{path.name[:2]}](../notebooks/{path.name})", len(rows),
                len({row["seed"] for row in rows}), _time(sum(row["seconds"] for row in rows)),
                _time(opened["seconds"]) if opened else "not measured",
                _words(row["hardware"] for row in rows), _words(row["torch"] for row in rows),
                " to ".join(dict.fromkeys([*days[:1], *days[-1:]])),
            ]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        return self.parse_text_to_nodes(StringList(lines, source="kdcourse/results"))


class Losses(SphinxDirective):
    """The losses of one kind, in the order of `kdcourse.losses`: each name stands there only."""

    required_arguments = 1
    inner = "values, forward, build, check, extra_repr, get_extra_state, set_extra_state"

    def run(self):
        from kdcourse import losses

        place = f"kdcourse.losses.{self.arguments[0]}."
        lines = ["```{eval-rst}"]
        for name, thing in vars(losses).items():
            if callable(thing) and thing.__module__.startswith(place):
                kind = "class" if inspect.isclass(thing) else "function"
                lines += [f".. auto{kind}:: kdcourse.losses.{name}", ""]
                if kind == "class":
                    lines[-1:] = [f"   :exclude-members: {self.inner}", ""]
        return self.parse_text_to_nodes(StringList([*lines, "```"], source="kdcourse/losses"))


class GlossaryLinks(SphinxPostTransform):
    """The first use of every glossary term on a page leads to its entry."""

    default_priority = 5  # before references are resolved, so that written ones can be seen
    pages = ("notebooks/", "book/")
    but_not = ("book/glossary", "book/references", "book/api")
    # A term is not looked for in what is code, a link, a heading or a formula already.
    closed = (nodes.reference, nodes.title, nodes.literal, nodes.math, nodes.raw, nodes.label,
              nodes.literal_block, addnodes.pending_xref, addnodes.desc, nodes.citation)

    def run(self, **kwargs):
        page = self.env.docname
        if not page.startswith(self.pages) or page.startswith(self.but_not):
            return
        entries = {name: place for (kind, name), place
                   in self.env.get_domain("std").objects.items() if kind == "term"}
        linked = {node["reftarget"].lower() for node in self.document.findall(addnodes.pending_xref)
                  if node.get("reftype") == "term"}
        left = {name.lower(): name for name in entries if name.lower() not in linked}
        for text in list(self.document.findall(nodes.Text)):
            if left and not _inside(text, self.closed):
                self.link(text, left, entries)

    def link(self, text, left, entries):
        """Replace the text by itself with links; take out of `left` what has been linked."""
        # The longest name first: "attention map" is not about attention.
        names = "|".join(sorted(map(re.escape, left), key=len, reverse=True))
        made, rest = [], str(text)
        while names and (found := re.search(rf"(?<![\w-])({names})(s?)(?![\w-])", rest, re.I)):
            docname, anchor = entries[left.pop(found[1].lower())]
            word = nodes.inline(found[0], found[0], classes=["glossary-link"])
            made += [nodes.Text(rest[:found.start()]),
                     make_refnode(self.app.builder, self.env.docname, docname, anchor, word)]
            rest = rest[found.end():]
            names = "|".join(sorted(map(re.escape, left), key=len, reverse=True))
        if made:
            text.parent.replace(text, [*made, nodes.Text(rest)])


class ChapterLinks(SphinxPostTransform):
    """Every "chapter 3" in a text leads to that chapter, except on its own page."""

    default_priority = 6  # the words of the glossary are linked already

    def run(self, **kwargs):
        page = self.env.docname
        chapters = {f"chapter {int(found[1])}": found[0] for name in self.env.found_docs
                    if name != page and (found := re.match(r"notebooks/(\d\d)_.*", name))}
        for text in list(self.document.findall(nodes.Text)):
            pieces = re.split(r"([Cc]hapter\s\d+)(?!\d)", str(text))
            if len(pieces) == 1 or _inside(text, GlossaryLinks.closed):
                continue
            made = []
            for piece in pieces:
                target = chapters.get(" ".join(piece.lower().split()))
                made.append(nodes.Text(piece) if target is None else make_refnode(
                    self.app.builder, page, target, "", nodes.inline(piece, piece)))
            text.parent.replace(text, made)


def _inside(node, kinds) -> bool:
    while node := node.parent:
        if isinstance(node, kinds):
            return True
    return False


def list_arguments(app, what, name, obj, options, lines):
    """Turn our plain "name: what it is" lines into a list, where `name` is an argument of `obj`."""
    try:
        known = "|".join(map(re.escape, inspect.signature(obj).parameters))
    except (TypeError, ValueError):
        return
    argument = re.compile(rf"((?:{known})(?:, (?:{known}))*)(?:: *|  +)(.*)")
    inside, result = False, []
    for line in lines:
        found = argument.fullmatch(line) if known else None
        if found:
            line = f":param {found[1]}: {found[2]}"
        if bool(found) != inside and not line.startswith(" ") and result and result[-1]:
            result.append("")  # a list and the text beside it are separate paragraphs
        if not line.startswith(" "):
            inside = bool(found)
        result.append(line)
    lines[:] = result


def mend(app, pagename, templatename, context, doctree):
    """Change the page's HTML just before it is written."""
    body = context.get("body", "")
    # docutils marks the entries of a bibliography with a role that browsers no longer support.
    body = body.replace(' role="doc-biblioentry"', ' role="listitem"')
    # The name of a fold must hold the words that one sees on it.
    body = body.replace(' aria-label="Toggle hidden content"', "")
    # Of "student, teacher: text" Sphinx makes an argument `teacher` of type "student,".
    body = re.sub(
        r"(<strong>\w+</strong>) \(((?:<em>[\w,]+</em> ?)+)<em>,</em>\)",
        lambda found: found[2].replace("<em>,</em>", ",").replace("em>", "strong>")
        + f", {found[1]}", body)
    # A wide table can be scrolled by keyboard, so it needs a role and a name of its own.
    number = itertools.count(1)
    body = re.sub(
        'class="pst-scrollable-table-container"|class="output text_html"(?=>\\s*<table)',
        lambda found: f'{found[0]} role="region" aria-label="Table {next(number)}"',
        body,
    )
    context["body"] = body


def number_chapters(app, env):
    """Let a chapter's number be that of its file, as every text calls it; they were counted in
    the order of the contents, which is another one."""
    for name, numbers in env.toc_secnumbers.items():
        if found := re.match(r"notebooks/(\d\d)_", name):
            for anchor, number in numbers.items():
                if number:  # sections have none
                    numbers[anchor] = (int(found[1]), *number[1:])
            for link in [env.titles[name], *env.tocs[name].findall(nodes.reference)]:
                if link.get("secnumber"):
                    link["secnumber"] = (int(found[1]), *link["secnumber"][1:])
    return []


def use_svg_formulas(app):
    """Let MathJax draw with paths: browsers may refuse its fonts on a page opened from disk."""
    app.config.mathjax_path = "mathjax/tex-svg.js"


def lighten(app, exception):
    """The last touches: text before scripts, and only the icons that are used."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    used = set()
    for path in folder.rglob("*.html"):
        page = path.read_text("utf-8")
        used |= set(re.findall(r"\bfa-([a-z0-9-]+)", page))
        # The fold of a chapter with pages of its own shows an arrow only, so it needs a name.
        page = re.sub('<summary>(?=<span class="toctree-toggle")',
                      '<summary aria-label="Pages of this chapter">', page)
        path.write_text(_scripts_last(page), "utf-8")
    icons = folder / "_static" / "scripts" / "fontawesome.js"
    if icons.is_file():  # two thousand drawings, of which the book needs about twenty
        icons.write_text(ICON.sub(lambda found: found[0] if found[1] in used else "",
                                  icons.read_text("utf-8")), "utf-8")


# "bars": [width, height, [other names], "codepoint", "path" or ["path", "path"]],
ICON = re.compile(r'"?([\w-]+)"?:\[\d+,\d+,\[[^\]]*\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')


def _scripts_last(page: str) -> str:
    """Move the scripts of the head to the end, in their order: they would hold up the text. The
    first one stays, it sets the colours, and so do those that wait by themselves (defer)."""
    head, middle, rest = page.partition("</head>")
    scripts = re.findall(r"<script.*?</script>", head, re.DOTALL)[1:]
    late = [script for script in scripts if not re.match(r"<script[^>]* (defer|async)\b", script)]
    for script in late:
        head = head.replace(script, "", 1)
    start, end, tail = rest.rpartition("</body>")
    return head + middle + start + "\n".join(late) + end + tail


def setup(app):
    app.add_directive("losses", Losses)
    app.add_directive("runs", Runs)
    app.add_post_transform(GlossaryLinks)
    app.add_post_transform(ChapterLinks)
    app.connect("builder-inited", use_svg_formulas)
    app.connect("env-get-updated", number_chapters, priority=900)  # after Sphinx's own numbers
    app.connect("autodoc-process-docstring", list_arguments)
    app.connect("html-page-context", mend)
    app.connect("build-finished", lighten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
