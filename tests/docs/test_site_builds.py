"""The site builds without a warning; its notebook runs and shows what it says; no link leads nowhere."""

import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("sphinx")
pytest.importorskip("myst_nb")

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "notebooks" / "first-steps.ipynb"
PAGES = sorted(path.relative_to(DOCS) for path in DOCS.rglob("*.md") if "_build" not in path.parts)
COMMAND = "sphinx-build -W docs docs/_build"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; the command is the one of the first page, into another folder."""
    assert COMMAND in (DOCS / "index.md").read_text("utf-8")
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", str(built)]
    done = subprocess.run(command, cwd=DOCS.parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return built


def text_of(page: Path) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text("utf-8")))


@pytest.mark.slow
def test_every_page_is_built_and_can_be_reached(site: Path) -> None:
    wanted = {site / page.with_suffix(".html") for page in PAGES if page.parts[0] != "results"}
    assert wanted <= set(site.rglob("*.html"))
    contents = (site / "index.html").read_text("utf-8")
    for page in wanted - {site / "index.html"}:
        assert f'href="{page.relative_to(site)}' in contents, page


@pytest.mark.slow
def test_no_link_of_the_site_leads_nowhere(site: Path) -> None:
    wrong = []
    for page in site.rglob("*.html"):
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.read_text("utf-8")):
            parts = urlsplit(html.unescape(link))
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                wrong.append(f"{page.name}: {link}")
            elif parts.fragment and target.suffix == ".html":
                anchor = html.escape(unquote(parts.fragment))
                if f'id="{anchor}"' not in target.read_text("utf-8"):
                    wrong.append(f"{page.name}: {link}")
    assert not [line for line in wrong if "searchindex" not in line]


@pytest.mark.slow
def test_the_search_shows_what_it_has_found_on_a_disk_too(site: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{(site / 'search.html').as_uri()}?q=calibrated")
    page.wait_for_selector("#search-results li .context", timeout=20_000)
    found = page.locator("#search-results li", has_text="Glossary").locator(".context").first
    assert "Expected calibration error: how far, on average" in " ".join(found.inner_text().split())
    page.close()


@pytest.mark.slow
def test_a_command_is_copied_whole_and_seen_whole(site: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((site / "your-own-images.html").as_uri())
    page.wait_for_selector("button.copybtn", state="attached", timeout=20_000)
    page.evaluate("document.execCommand = () => { copied = document.activeElement.value; return true }")
    page.locator(".highlight", has_text="python extract.py").first.locator("button").dispatch_event("click")
    assert page.evaluate("copied") == (
        "python extract.py --config=configs/your_images.py --config.data.source=folder:photos \\\n"
        "    --workdir=runs/mine"
    )
    for name in ("your-own-images", "clusters", "benchmarks", "install"):
        page.goto((site / f"{name}.html").as_uri())
        hidden = "all => all.filter(block => block.scrollWidth > block.clientWidth).map(block => block.innerText)"
        assert page.eval_on_selector_all("article pre", hidden) == [], name
    page.close()


@pytest.mark.slow
def test_the_settings_are_a_list(site: Path) -> None:
    text = text_of(site / "settings.html")
    assert "--config.head.C, a number, default NoneThe inverse of the penalty, as in scikit-learn (logistic)." in text


@pytest.mark.slow
def test_the_notebook_shows_what_it_says(site: Path) -> None:
    shown = text_of(site / "notebooks" / "first-steps.html")
    third, last = (float(x) for x in re.search(r"'block3:flatten': (0\.\d+), 'pre_logits': (0\.\d+)", shown).groups())
    assert third > 0.98 and last < third - 0.2, "the third block is to transfer, the last one is not"
    assert "'tap': 'block3:flatten'" in shown and "McNemar(" in shown
    assert ", taken for a " in shown
    assert list((site / "_images").glob("*.png")), "the wrong digits are not shown"


@pytest.mark.slow
def test_public_names_and_verbs_are_described(site: Path) -> None:
    import transfer
    from transfer.cli.verbs import EXPERIMENTS, VERBS
    from transfer.heads import HEADS, camel

    described = "".join(page.read_text("utf-8") for page in (site / "api").glob("*.html"))
    names = [f"transfer.{name}" for name in transfer.__all__ if name != "LinearProbe"]
    names += [f"transfer.heads.{name}_probe.{camel(name)}Probe" for name in HEADS]
    assert not [name for name in names if f'id="{name}"' not in described]
    commands = text_of(site / "commands.html")
    assert not [verb for verb in VERBS if f"python -m transfer {verb} [-h]" not in commands]
    assert not [verb for verb in EXPERIMENTS if f"python -m transfer {verb} --config=" not in commands]


def test_the_notebook_has_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code), "clear all outputs"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_of_the_sources_lead_to_files(page: Path) -> None:
    """What GitHub follows: paths from the page's folder, and headings by their words."""
    text = (DOCS / page).read_text("utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (DOCS / page).parent / parts.path if parts.path else DOCS / page
        assert target.exists(), link
        if parts.fragment:
            headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert parts.fragment in slugs, link
