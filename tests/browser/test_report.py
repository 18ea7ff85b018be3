"""The report's page in a real browser, rendered from real runs."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pypdfium2
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
READABLE = 4.5  # contrast that WCAG 2.2 asks of text at level AA
TEXTS = (
    "h1", "h2", "p", "a", "td", "tbody th", "thead button", ".facts", ".notes", ".interval", ".marks", ".headline",
    "label", "select", "form button", "summary", "figcaption", "pre code", "dt", "dd", "svg text",
)  # fmt: skip
COLOURS = """texts => texts.flatMap(selector => [...document.querySelectorAll(selector)].map(element => {
  const style = getComputedStyle(element);
  let behind = element;
  while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  return [selector, element.closest("svg") ? style.fill : style.color,
          getComputedStyle(behind || document.body).backgroundColor];
}))"""


@pytest.fixture(scope="module")
def page(tmp_path_factory, cache: Path) -> Path:
    """A report of two methods with two seeds, kept embeddings, panels and a failed cell."""
    folder = tmp_path_factory.mktemp("report")
    script = Path(sys.executable).with_name("dmlbench")
    variables = {key: value for key, value in os.environ.items() if not key.startswith("DMLBENCH_")}

    def command(*words: str, code: int = 0) -> str:
        done = subprocess.run([script, *words], cwd=folder, env=variables | {"XDG_CACHE_HOME": str(cache)},
                              capture_output=True, text=True, timeout=500, check=False)  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    run = ("run", "--datasets", "glyphs", "--tracking", "none", "--set", "training.epochs=2")
    command(*run, "--methods", "ms,ms+obdsd", "--seeds", "2", "--keep", "embeddings")
    command(*run, "--methods", "ms", "--seed", "3", "--set", "training.learning_rate=1e30", code=1)
    return folder / command("report", "--name", "seen", "--panels").strip()


def test_the_page_opens_without_errors_and_asks_nobody_for_anything(page, window):
    seen = window()
    seen.open(page)
    assert seen.errors == []
    assert seen.requests == [page.resolve().as_uri()]
    assert seen.page.title() == "seen: dmlbench report"


def test_every_figure_is_seen(page, window):
    seen = window()
    seen.open(page)
    seen.page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    figures = seen.page.locator("figure svg[role=img]")
    sizes = figures.evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(box => [box.width, box.height])"
    )
    assert len(sizes) > 10
    assert all(width > 200 and height > 60 for width, height in sizes)
    images = seen.page.locator("figure svg image")
    assert images.count() > 20  # of the panels
    loaded = images.evaluate_all(
        "all => Promise.all(all.map(one => { const image = new Image(); image.src = one.href.baseVal;"
        " return image.decode().then(() => image.naturalWidth, () => 0); }))"
    )
    assert all(width > 0 for width in loaded)
    links = seen.page.locator("a[href]").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    files = [link for link in links if not link.startswith("#")]
    assert len(files) > 20
    assert all((page.parent / link).is_file() for link in files)


def test_clicks_sort_a_table_turn_it_round_and_restore_its_order(page, window):
    seen = window()
    seen.open(page)
    unfold(seen)
    table = seen.page.locator("table[id^=table-accuracy][id$=_last]").first
    head = table.locator("th", has=seen.page.get_by_role("button", name="MAP@R"))
    for direction, step in ("ascending", 1), ("descending", -1):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        column = [float(text.split()[0]) for text in table.locator("tbody tr td:nth-child(7)").all_inner_texts()]
        assert len(column) == 3
        assert all(step * (two - one) >= 0 for one, two in pairwise(column))
    first = table.locator("tbody th").all_inner_texts()
    head.locator("button").click()
    assert head.get_attribute("aria-sort") is None
    assert table.locator("tbody th").all_inner_texts() != first
    assert table.locator("tbody th").first.inner_text() == "untrained"
    names = table.locator("th", has=seen.page.get_by_role("button", name="Method"))
    names.locator("button").focus()
    seen.page.keyboard.press("Enter")  # by keyboard, too
    assert table.locator("tbody th").first.inner_text().startswith("ms")
    assert head.get_attribute("aria-sort") is None


def test_the_data_behind_a_figure_is_a_click_away(page, window):
    seen = window()
    seen.open(page)
    data = seen.page.locator("figure").first.locator("details.data")
    assert not data.locator("table").is_visible()
    data.locator("summary").click()
    assert data.locator("table").is_visible()
    assert data.locator("tbody tr").count() == 1  # of the gain matrix


@pytest.mark.parametrize("dark", [False, True])
def test_everything_is_legible_in_light_and_dark(page, window, dark):
    seen = window(dark=dark)
    seen.open(page)
    seen.page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    pairs = {tuple(found) for found in seen.page.evaluate(COLOURS, list(TEXTS))}
    assert {selector for selector, _, _ in pairs} == set(TEXTS)
    faint = {pair: ratio for pair in pairs if (ratio := contrast(*pair[1:])) < READABLE}
    assert faint == {}
    assert (luminance(next(pair[2] for pair in pairs if pair[0] == "h1")) < 0.2) is dark


@pytest.mark.parametrize("width", [400, 1000, 1440])
def test_only_boxes_scroll_sideways(page, window, width):
    seen = window(width=width, height=900)
    seen.open(page)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    unfold(seen)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_row_is_a_card_on_a_narrow_screen(page, window):
    seen = window(width=400, height=900)
    seen.open(page)
    unfold(seen)
    rows = seen.page.locator("#answer .sortable tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => { const box = cell.getBoundingClientRect();"
        " return [cell.getAttribute('role'), getComputedStyle(cell, '::before').content, box.left, box.right]; }))"
    )
    assert len(rows) == 2
    for row in rows:
        assert [role for role, *_ in row] == ["rowheader", *["cell"] * 4]
        assert [name.strip('"') for _, name, *_ in row[1:]] == ["R@1", "Rank", "Gain over ms", "Step time over ms"]
        assert all(0 <= left < right <= 400 for *_, left, right in row)
    boxes = "boxes => boxes.filter(box => box.clientWidth && box.querySelector('.sortable')).map(%s)"
    beyond = seen.page.locator(".scroll").evaluate_all(boxes % "box => box.scrollWidth - box.clientWidth")
    assert len(beyond) > 10
    assert max(beyond) <= 0
    seen.page.get_by_role("button", name="Method").first.click()  # sorts
    assert seen.page.locator("#answer .sortable tbody th").first.inner_text().split()[0] == "ms"


@pytest.mark.parametrize("width", [800, 1440])
def test_a_tables_head_stays_while_its_rows_scroll_by(page, window, width):
    """Of tables that fit and of those that scroll sideways, too."""
    seen = window(width=width, height=400)
    seen.open(page)
    unfold(seen)
    wide = set()
    for table in seen.page.locator("details.section table.sortable").all():
        rows = table.locator("tbody tr")
        if rows.count() < 4:
            continue
        rows.first.evaluate("row => row.scrollIntoView({block: 'start', behavior: 'instant'})")
        seen.page.wait_for_timeout(100)  # two frames at least
        bar, head = (part.bounding_box() for part in (seen.page.locator("#filter"), table.locator("thead")))
        assert head["y"] == pytest.approx(bar["y"] + bar["height"], abs=1.5)
        wide.add(table.evaluate("table => table.parentElement.classList.contains('wide')"))
    assert False in wide
    assert width > 800 or True in wide


def test_the_answer_is_seen_first_and_the_rest_is_closed(page, window):
    seen = window(width=1440, height=900)
    seen.open(page)
    seen_first = seen.page.locator("#answer")
    assert seen_first.locator(".headline").first.inner_text().startswith("On glyphs ")
    for part in seen_first.locator(".headline").first, seen_first.locator("figure svg"):
        box = part.bounding_box()
        assert box["y"] + box["height"] < 900
    assert seen.page.locator("details.section").count() > 5
    assert seen.page.locator("details.section[open]").count() == 0
    assert seen.page.evaluate("document.documentElement.scrollHeight") < 10 * 900


def test_few_tab_stops_lead_to_the_answer_and_a_link_skips_them(page, window):
    seen = window()
    seen.open(page)
    seen.page.keyboard.press("Tab")
    assert seen.page.evaluate("document.activeElement.className") == "skip"
    seen.page.keyboard.press("Enter")
    assert seen.page.evaluate("document.activeElement.id") == "answer"
    stops = 0
    while not seen.page.evaluate("document.querySelector('#answer table.sortable').contains(document.activeElement)"):
        seen.page.keyboard.press("Tab")
        stops += 1
        assert stops < 40


def test_a_link_of_the_contents_opens_its_section(page, window):
    seen = window()
    seen.open(page)
    seen.page.locator("nav a", has_text="Where the numbers come from").click()
    assert seen.page.locator("#sources[open]").count() == 1
    assert seen.page.locator("details.section[open]").count() == 1


def test_a_filter_hides_rows_and_fades_marks(page, window):
    seen = window()
    seen.open(page)
    rows = seen.page.locator("#answer tbody tr:visible")
    assert rows.count() == 2
    seen.page.locator("form input").fill("obdsd")
    assert rows.count() == 1
    assert rows.first.inner_text().startswith("ms+obdsd")
    assert seen.page.locator("form output").inner_text() == "1 of 2 methods"
    assert seen.page.locator("svg [data-method].out").count() == 0
    seen.page.locator("form input").fill("")
    seen.page.locator("form select[name=modifier]").select_option("none")
    assert rows.count() == 1
    assert seen.page.locator("svg [data-method='ms+obdsd'].out").count() > 0
    seen.page.get_by_role("button", name="Clear filter").click()
    seen.page.wait_for_function("!document.body.classList.contains('filtered')")
    assert rows.count() == 2


def test_a_mark_says_what_it_is_where_it_is_pointed_at(page, window):
    seen = window()
    seen.open(page)
    words = seen.page.locator("#answer svg [data-method='ms+obdsd'] title").first.text_content()
    assert words.startswith("ms+obdsd against ms on glyphs: ")


def test_paper_has_what_is_open_and_no_page_is_blank(page, window, tmp_path):
    seen = window()
    seen.open(page)
    closed, words = pages_of(seen, tmp_path / "closed.pdf")
    assert not any("Where the numbers come from" in text for text in words)
    headings = seen.page.locator("h2, h3, details.part > summary, caption").all_text_contents()
    unfold(seen)
    opened, words = pages_of(seen, tmp_path / "open.pdf")
    assert len(closed) <= 3
    assert len(opened) > len(closed)
    assert all(closed + opened)
    assert any("Where the numbers come from" in text for text in words)
    assert not {text.splitlines()[-1].strip() for text in words} & {heading.strip() for heading in headings}


def test_the_committed_report_opens(window):
    seen = window()
    seen.open(ROOT / "reports" / "glyphs" / "index.html")
    assert seen.errors == []
    assert len(seen.requests) == 1


def unfold(seen):
    seen.page.get_by_role("button", name="Open all sections").click()


def pages_of(seen, path: Path) -> tuple[list[bool], list[str]]:
    """Whether each page of the printed document has anything on it, and its words."""
    seen.page.pdf(path=path, prefer_css_page_size=True)
    with pypdfium2.PdfDocument(path) as paper:
        drawn = [sheet.render(scale=0.3).to_numpy() for sheet in paper]
        words = [sheet.get_textpage().get_text_range().strip() for sheet in paper]
    return [bool((pixels != pixels[0, 0]).any()) for pixels in drawn], words


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG 2.2 defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)` or, opaque, `rgba(...)`."""
    channels = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in channels]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
