"""The report in a real browser: both widths, both themes, no error, no request; the pointer and the keyboard."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest

SIZES = {"phone": (390, 844), "desktop": (1280, 900)}
THEMES = ("light", "dark")


@pytest.fixture(scope="module")
def two(trained: Path, tmp_path_factory: Any) -> Path:
    """A report of two runs, one of them with names as nobody would choose them."""
    import shutil

    from transfer.__main__ import main

    folder = tmp_path_factory.mktemp("two")
    other = Path(shutil.copytree(trained, folder / "<img src=x onerror=alert(1)> \"q\" 'a' ünï 🙂"))
    output = folder / "both.html"
    assert main(["report", str(trained), str(other), "--output", str(output), "--map=none"]) == 0
    return output


@pytest.mark.parametrize("scheme", THEMES)
@pytest.mark.parametrize("size", SIZES)
def test_fits_and_can_be_read(trained: Path, watched: Any, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    page = watched(trained / "report.html", width, height, scheme)
    page.mouse.wheel(0, 1e5)
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out to the right"
    assert page.evaluate("report.problems.length") == 0
    assert page.evaluate(CONTRASTS) == []
    assert page.evaluate(NAMELESS) == []
    small = page.evaluate("""() => [...document.querySelectorAll('.tile, .facts dd, td, p')].filter(one =>
        one.offsetParent && parseFloat(getComputedStyle(one).fontSize) < 11).map(one => one.outerHTML.slice(0, 200))""")
    assert small == []


# Text whose colour is less than 4.5:1 from the first opaque background behind it.
CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  function numbers(colour) {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  }
  function light(rgb) {
    const [r, g, b] = rgb.slice(0, 3).map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }
  const found = [];
  for (const one of document.querySelectorAll(
      'p, li, dt, dd, th, td, h1, h2, h3, a, summary, button, small, strong, code, span')) {
    if (!one.offsetParent || ![...one.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    let back = one, behind = [0, 0, 0, 0];
    while (back && behind[3] < 250) {
      behind = numbers(getComputedStyle(back).backgroundColor);
      back = back.parentElement;
    }
    const [a, b] = [light(numbers(getComputedStyle(one).color)), light(behind)];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(ratio.toFixed(2) + ' ' + one.outerHTML.slice(0, 120));
  }
  return found;
}"""

# What a screen reader could not tell: pictures without words, buttons without names, tables without headings.
NAMELESS = """() => [
  ...[...document.querySelectorAll('svg, canvas, img')].filter(one =>
      !one.closest('[aria-hidden=true], [aria-label]') && !one.getAttribute('alt') &&
      !one.getAttribute('aria-labelledby')),
  ...[...document.querySelectorAll('button, a, summary, input, select')].filter(one => !(one.textContent.trim() ||
      one.getAttribute('aria-label') || one.getAttribute('title') || one.labels && one.labels.length)),
  ...[...document.querySelectorAll('table')].filter(one => !one.querySelector('th[scope]')),
].map(one => one.outerHTML.slice(0, 200))"""


def test_the_pointer_reads_a_curve(trained: Path, watched: Any) -> None:
    page = watched(trained / "report.html")
    figure = page.locator("#curves-0 figure").nth(1)
    figure.scroll_into_view_if_needed()
    box = figure.locator("svg.chart").bounding_box()
    page.mouse.move(box["x"] + 0.53 * box["width"], box["y"] + box["height"] / 2)
    reading = figure.locator(".reading")
    assert re.fullmatch(r"epoch 2: training [\d.]+%, validation [\d.]+%", reading.inner_text())
    page.mouse.move(1, 1)
    assert reading.inner_text().startswith("3 epochs")


def test_the_keyboard_reads_a_curve(trained: Path, watched: Any) -> None:
    page = watched(trained / "report.html")
    figure = page.locator("#curves-0 figure").first
    figure.locator(".plot").focus()
    page.keyboard.press("ArrowLeft")
    assert figure.locator(".reading").inner_text().startswith("epoch 2: training ")
    page.keyboard.press("Home")
    assert figure.locator(".reading").inner_text().startswith("epoch 1: ")


def test_everything_is_reached_by_the_tab_key(trained: Path, watched: Any) -> None:
    page = watched(trained / "report.html")
    seen = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        place = page.evaluate("""() => { const all = [...document.querySelectorAll('*')];
            const now = document.activeElement;
            return now === document.body ? null : [all.indexOf(now), getComputedStyle(now).outlineStyle]; }""")
        if place is None or place[0] in seen:
            break
        assert place[1] != "none", "the focus is seen"
        seen.add(place[0])
    missed = page.evaluate(
        """seen => { const all = [...document.querySelectorAll('*')];
        return all.filter((one, at) => !seen.includes(at) && one.matches('a[href], button, summary, input, select') &&
            one.checkVisibility({visibilityProperty: true}) && one.tabIndex >= 0 && !one.disabled
        ).map(one => one.outerHTML.slice(0, 120)); }""",
        sorted(seen),
    )
    assert missed == []


def test_the_theme_is_chosen_and_kept(trained: Path, watched: Any) -> None:
    page = watched(trained / "report.html", scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    button = page.locator("#theme")
    button.click()
    assert "light" in button.inner_text() and page.evaluate(paper) != dark
    page.reload()
    assert "light" in page.locator("#theme").inner_text() and page.evaluate(paper) != dark
    page.locator("#theme").click()
    assert page.evaluate(paper) == dark


@pytest.mark.parametrize("width", [390, 700, 1000, 1200])
def test_no_column_of_the_comparison_is_cut(two: Path, watched: Any, width: int) -> None:
    page = watched(two, width)
    table = page.locator("#comparison .scroll")
    assert table.evaluate("one => one.scrollWidth") <= table.evaluate("one => one.clientWidth")
    last = page.locator("#comparison tbody tr").nth(1).locator("td").last  # p of a difference
    assert last.is_visible() and last.bounding_box()["x"] + last.bounding_box()["width"] <= width
    row = page.locator("#comparison tbody tr").first.evaluate("one => one.textContent")
    assert re.search(r"\d\d\.\d\d \[\d\d\.\d\d, \d+\.\d\d\]", row), "as one text, for who copies it"


def test_tables_are_sorted_by_their_headings(two: Path, watched: Any) -> None:
    page = watched(two)
    heading = page.locator("#comparison thead th").first
    heading.locator("button").focus()
    names = "[...document.querySelectorAll('#comparison tbody th')].map(one => one.textContent)"
    before = page.evaluate(names)
    orders = []
    for _ in range(2):
        page.keyboard.press("Enter")
        orders.append((heading.get_attribute("aria-sort"), page.evaluate(names)))
    assert [order[0] for order in orders] == ["ascending", "descending"]
    assert orders[0][1] == orders[1][1][::-1] and sorted(before) == sorted(orders[0][1])


def test_a_table_is_downloaded_as_csv(trained: Path, watched: Any, tmp_path: Path) -> None:
    page = watched(trained / "report.html")
    button = page.locator("#classes-0 button.csv")
    with page.expect_download() as download:
        button.click()
    download.value.save_as(tmp_path / "table.csv")
    assert download.value.suggested_filename == "classes-0.csv"
    rows = list(csv.reader((tmp_path / "table.csv").read_text("utf-8").splitlines()))
    assert rows[0][:4] == ["class", "recall", "interval, %", "images"] and len(rows) == 11
    assert [row[0] for row in rows[1:]] == list("0123456789")
    assert all(re.fullmatch(r"[\d.]+%", row[1]) and row[3] == "12" for row in rows[1:])


@pytest.mark.parametrize("size", SIZES)
def test_no_entry_of_the_contents_is_cut(trained: Path, watched: Any, size: str) -> None:
    page = watched(trained / "report.html", *SIZES[size])
    ends = page.locator("nav.contents a").evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")
    assert len(ends) >= 8 and max(ends) <= SIZES[size][0]
    page.locator("nav.contents a").last.click()
    page.wait_for_timeout(700)
    title = page.locator("#setup-0 h2").bounding_box()
    bar = page.locator("nav.contents").bounding_box()
    assert title["y"] >= max(bar["y"] + bar["height"], 0) - 1, "the title is not below the contents"


@pytest.mark.parametrize("size", SIZES)
def test_two_runs_fold_and_open(two: Path, watched: Any, size: str) -> None:
    page = watched(two, *SIZES[size])
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size][0]
    assert page.locator("details.run[open]").count() == 0
    assert "onerror=alert(1)" in page.locator("#run-1 h2").first.inner_text()
    page.locator("#comparison tbody a").nth(1).click()
    page.wait_for_selector("#run-1[open]")
    assert page.locator("#curves-1 .plot").first.is_visible()
    page.locator("#curves-1 .plot").first.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#curves-1 .reading").first.inner_text().startswith("epoch ")


def test_without_scripts_it_can_still_be_read(trained: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((trained / "report.html").resolve().as_uri())
    assert page.locator("#overview-0 .tile strong").first.inner_text().endswith("%")
    assert page.locator("#curves-0 svg.chart").count() == 2
    context.close()


def test_nothing_could_be_fetched(trained: Path, browser: Any) -> None:
    """The page's own policy stops what a name or a slip of a template might ask for."""
    context = browser.new_context()
    page = context.new_page()
    page.goto((trained / "report.html").resolve().as_uri())
    refused = page.evaluate("""async () => {
        const blocked = [];
        document.addEventListener('securitypolicyviolation', event => blocked.push(event.effectiveDirective));
        await fetch('https://example.com/').catch(() => {});
        const image = document.body.appendChild(new Image());
        image.src = 'https://example.com/x.png';
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        document.body.appendChild(script);
        await new Promise(done => setTimeout(done, 200));
        return [blocked.sort(), window.ran === true];
    }""")
    assert refused == [["connect-src", "img-src", "script-src-elem"], False]
    context.close()


@pytest.mark.parametrize("size", SIZES)
def test_the_map_shows_an_image_to_pointer_and_keyboard(trained: Path, watched: Any, size: str) -> None:
    page = watched(trained / "report.html", *SIZES[size])
    canvas = page.locator("#map-0 canvas.points")
    canvas.scroll_into_view_if_needed()
    tip = page.locator("#map-0 .tip")
    assert not tip.is_visible()
    box = canvas.bounding_box()
    # the middle of all marks has one near it
    for step in range(1, 20):
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * step / 20)
        if tip.is_visible():
            break
    image = page.locator("#map-0 .tip .image")
    assert image.is_visible() and "url(" in image.evaluate("one => getComputedStyle(one).backgroundImage")
    shown = page.locator("#map-0 .reading").inner_text()
    page.mouse.move(1, 1)
    canvas.focus()
    page.keyboard.press("ArrowRight")
    assert image.is_visible() and page.locator("#map-0 .reading").inner_text() != shown
