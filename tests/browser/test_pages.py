"""What a user sees: the page from a file and in MLflow's frame, and MLflow's pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipelines.tracking import links
from tests.looking import LoggedRun, chromium, log_run, serving

if TYPE_CHECKING:
    from playwright.sync_api import Frame, Page

PATIENCE_MS = 60_000
"""The machine may be busy."""

TABLE = ".pictures:not([hidden])"
"""The table of all pictures that is shown."""


def expect(locator):
    """Playwright's, which may be missing where these tests are skipped."""
    from playwright.sync_api import expect as expect_it

    return expect_it(locator)


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def logged_run(browser, tiny_shards, tmp_path_factory) -> LoggedRun:
    """Made only where a browser can look at it."""
    return log_run(tiny_shards, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def mlflow_ui(logged_run: LoggedRun):
    with serving(logged_run) as address:
        yield address


@pytest.fixture
def page(browser):
    """A tab that remembers what went wrong in it, and what it asked the network for."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="light")
    tab.set_default_timeout(PATIENCE_MS)
    tab.errors, tab.asked = [], []
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    tab.on("request", lambda request: tab.asked.append(request.url))
    yield tab
    tab.close()


@pytest.fixture
def opened(page: Page, logged_run) -> Page:
    page.goto(logged_run.page.as_uri())
    return page


def drawn(place: Page | Frame, selector: str) -> list[int]:
    """Width of every picture, 0 where it is not drawn."""
    return place.eval_on_selector_all(selector, "all => all.map((each) => each.naturalWidth)")


def seam(place: Page | Frame) -> str:
    return place.eval_on_selector("#left-image", "(image) => image.style.clipPath")


def column(place: Page | Frame, number: int) -> list[float]:
    """A column of the table that is shown."""
    cells = f"{TABLE} tbody tr > :nth-child({number})"
    return place.eval_on_selector_all(cells, "all => all.map((each) => +each.dataset.value)")


def try_everything(place: Page | Frame) -> None:
    """Move the slider with its three handles, sort the table both ways, look at the pictures."""
    expect(place.locator("#stage")).to_be_visible(timeout=PATIENCE_MS)
    place.wait_for_function("document.getElementById('right-image').naturalWidth > 0")
    assert min(drawn(place, "#canvas > img")) == 144
    assert min(drawn(place, "[data-thumbnail]")) == 144
    before = seam(place)
    place.locator("#divider").fill("80")
    assert seam(place) != before
    place.locator("#stage").press("ArrowLeft")
    assert place.locator("#divider").input_value() == "78"
    area = place.locator("#stage").bounding_box()
    assert area is not None
    place.locator("#stage").click(position={"x": area["width"] * 0.25, "y": area["height"] / 2})
    assert float(place.locator("#divider").input_value()) == pytest.approx(25, abs=1)
    for order in (True, False):
        place.click(f"{TABLE} thead tr:nth-child(2) th:nth-child(2) button")
        assert column(place, 2) == sorted(column(place, 2), reverse=order)
    assert len(set(column(place, 2))) > 1


def test_the_page_works_from_a_file_without_a_network(opened: Page):
    try_everything(opened)
    assert opened.errors == []
    assert all(url.startswith(("file:", "data:")) for url in opened.asked)


def test_the_methods_sort_and_their_crops_are_shown(opened: Page):
    names = ".summary:first-of-type tbody:first-of-type tr > th"
    ranked = opened.locator(names).all_inner_texts()
    assert {"bicubic", "unsharp", "registered paste", "SDDuSR"} <= set(ranked)
    values = f"{names} + td"
    psnr = opened.eval_on_selector_all(values, "all => all.map((each) => +each.dataset.value)")
    first = len(psnr) // 2  # one table for each protocol
    assert psnr[:first] == sorted(psnr[:first], reverse=True)
    opened.locator(".summary thead button").first.click()
    assert opened.locator(names).all_inner_texts()[:first] == sorted(
        ranked[:first], key=str.casefold, reverse=True
    )
    crops = opened.locator("#crops .strip figure")
    assert crops.count() >= 2 * 6
    crops.first.scroll_into_view_if_needed()
    opened.wait_for_function("document.querySelector('#crops .strip img').naturalWidth > 0")
    area = crops.first.locator("div").bounding_box()
    assert area is not None
    assert area["width"] == pytest.approx(area["height"], abs=1)
    expect(crops.first.locator("figcaption")).to_contain_text("dB")
    assert opened.errors == []


def test_keys_reach_zoom_overlays_and_the_next_picture(opened: Page):
    stage = opened.locator("#stage")
    stage.press("+")
    expect(opened.locator("#zoom")).to_have_text("1.5×")
    moved = opened.eval_on_selector("#canvas", "(canvas) => canvas.style.transform")
    stage.press("Shift+ArrowRight")
    assert opened.eval_on_selector("#canvas", "(canvas) => canvas.style.transform") != moved
    stage.press("0")
    expect(opened.locator("#zoom")).to_have_text("1×")
    expect(opened.locator("#center-box")).to_be_visible()
    stage.press("b")
    expect(opened.locator("#center-box")).to_be_hidden()
    stage.press("m")
    expect(opened.locator("#overlay-images img")).to_have_count(1)
    opened.wait_for_function("document.querySelector('#overlay-images img').naturalWidth === 36")
    first = opened.locator("#picture").input_value()
    stage.press("n")
    assert opened.locator("#picture").input_value() != first
    assert opened.errors == []


def test_a_point_of_a_plot_and_a_row_lead_to_their_picture(opened: Page):
    last = opened.locator(f"{TABLE} button.link").last
    last.click()
    assert opened.locator("#picture").input_value() == last.inner_text()
    expect(opened.locator("#stage")).to_be_focused()
    other = opened.locator("#picture option").first.get_attribute("value")
    point = f"document.querySelector('svg a[*|href=\"#picture={other}\"]')"
    opened.evaluate(f"{point}.dispatchEvent(new MouseEvent('click', {{bubbles: true}}))")
    assert opened.locator("#picture").input_value() == other


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_and_can_be_changed(opened: Page, scheme: str):
    opened.emulate_media(color_scheme=scheme)
    opened.reload()
    paper = "getComputedStyle(document.body).backgroundColor"
    assert (
        opened.evaluate(paper) == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 29)"}[scheme]
    )
    before = opened.evaluate(paper)
    opened.locator("#theme").click()
    assert opened.evaluate(paper) != before


def test_a_telephone_shows_the_page_without_scrolling_sideways(opened: Page):
    opened.set_viewport_size({"width": 360, "height": 740})
    opened.reload()
    opened.wait_for_function("document.getElementById('stage').clientWidth > 0")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
    assert opened.evaluate("document.getElementById('stage').clientWidth") <= 360


def test_mlflow_shows_the_page_and_it_works_there(page: Page, mlflow_ui: str, logged_run):
    page.goto(
        run_page(
            mlflow_ui, logged_run, "artifacts/evaluation/test/page.html", logged_run.evaluation_id
        )
    )
    frame = page.wait_for_selector("iframe#html").content_frame()
    assert frame is not None
    try_everything(frame)


def test_mlflow_draws_the_pictures_of_each_validation(page: Page, mlflow_ui: str, logged_run):
    page.goto(run_page(mlflow_ui, logged_run, "model-metrics"))
    expect(page.get_by_text("Model training")).to_be_visible()
    page.get_by_placeholder("Search metric charts").fill("sheet")
    drawn = "[...document.images].filter((image) => image.naturalWidth > 100).map((i) => i.src)"
    page.wait_for_function(f"{drawn}.length >= 3")
    first, slider = page.evaluate(drawn), page.get_by_role("slider").first
    assert slider.get_attribute("aria-valuenow") == "0"
    slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuenow", "3")
    page.wait_for_function(f"(first) => {drawn}.some((src) => !first.includes(src))", arg=first)


@pytest.mark.long
def test_a_run_opens_on_its_curves_and_not_on_points_of_the_test(
    page: Page, mlflow_ui: str, logged_run
):
    page.set_viewport_size({"width": 1280, "height": 4000})  # charts are drawn where they are seen
    page.goto(run_page(mlflow_ui, logged_run, "model-metrics"))
    for name in ("step_s", "total", "center_psnr"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible(timeout=PATIENCE_MS)
    assert "png8" not in page.inner_text("body")


def test_a_runs_overview_leads_to_its_data_its_model_and_its_evaluation(
    page: Page, mlflow_ui: str, logged_run
):
    page.goto(run_page(mlflow_ui, logged_run, ""))
    for text in ("evaluate step-00000006 test", "sddusr-tiny", "Training", "System metrics"):
        expect(page.get_by_text(text).first).to_be_visible(timeout=PATIENCE_MS)


def run_page(mlflow_ui: str, logged_run, tab: str, run_id: str = "") -> str:
    """What the commands tell a user, at the port of these tests."""
    told = links.run_page(logged_run.uri, run_id or logged_run.run_id, tab)
    assert told.startswith(links.LOCAL_PAGE)
    return told.replace(links.LOCAL_PAGE, mlflow_ui)
