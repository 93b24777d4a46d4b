"""The page holds the numbers that were measured, escapes names, and refuses unlike results."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipelines.report import ReportOptions, write_report
from pipelines.reporting.page import TEMPLATES
from sddusr.evaluation.results import gains, summarize
from sddusr.evaluation.scoring import score_triplet
from sddusr.evaluation.tables import write_tables
from sddusr.geometry.box import Box
from sddusr.inference import bicubic, to_8bit
from sddusr.visualization.web_view import build_web_view, view_place
from tests.conftest import make_triplet

EVIL = '<img src=x onerror="alert(1)">&</script>'
"""A name that would be markup; as an id, without the slash that would be a folder."""


def evaluate(folder: Path, *, sharpen: float = 1.0, method: str = "ours", num: int = 6, seed=0):
    """Results of a method that moves bicubic towards the truth, with their views."""
    images = []
    for number in range(num):
        triplet = make_triplet(f"picture-{number}", "test", box=Box(32, 96, 36, 108), seed=number)
        if seed:
            triplet = triplet._replace(lr=triplet.lr // 2)
        low = bicubic(triplet.lr)
        share = sharpen * 0.1 * (1 + number % 3)
        pictures = {"bicubic": low, method: low + share * (triplet.hr / np.float32(255) - low)}
        images += score_triplet(triplet, pictures, ("kedusr-float", "png8"))
        shown = {name: to_8bit(picture) for name, picture in pictures.items()}
        place = Path(view_place(str(folder), triplet.id))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(build_web_view(triplet, shown, None)))
    found = gains(images, "bicubic")
    write_tables(str(folder), images, summarize(images), found, "", {"data": EVIL})
    return images


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "first"
    evaluate(folder)
    return folder


def options(*results: Path, **changes) -> ReportOptions:
    out = str(results[0].parent / "page.html")
    return replace(ReportOptions(results=tuple(map(str, results)), out=out), **changes)


class Tags(HTMLParser):
    """Every tag with its attributes, and the JSON of the views."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.data, self._in_views = [], "", False
        self.feed(html)
        self.views = json.loads(self.data)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in_views = dict(attrs).get("id") == "views"

    def handle_endtag(self, tag):
        self._in_views = False

    def handle_data(self, data):
        if self._in_views:
            self.data += data


def page(*results: Path, **changes) -> tuple[str, Tags]:
    html = Path(write_report(options(*results, **changes))).read_text()
    return html, Tags(html)


def test_the_page_needs_nothing_from_outside(results):
    html, parsed = page(results)
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "data", "srcset"):
            link = attributes.get(name) or attributes.get(f"xlink:{name}") or "#"
            assert link.startswith(("#", "data:")), (tag, link)
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_means_intervals_and_gains_stand_in_the_summary(results):
    html, _ = page(results)
    images = evaluate(results)
    for summary in summarize(images):
        assert f">{summary.scores.full_psnr:.2f}" in html
    for gain in gains(images, "bicubic"):
        digits = 2 if gain.column.endswith("psnr") else 4
        mean, low, high = (f"{value:+.{digits}f}" for value in gain.interval)
        assert mean in html
        assert f"{low} to {high}" in html
    assert "kedusr-float" in html
    assert "png8" in html


def rows_of(html: str, protocol: str) -> list[tuple[str, bool]]:
    """Methods of a protocol's table of means in their order, and whether their PSNR is marked."""
    table = html.partition(f"Summary, {protocol}")[2].partition("</tbody>")[0]
    found = re.findall(r'data-value="([^"]+)">[^<]+</th>\s*<td( class="best")?', table)
    return [(name, bool(best)) for name, best in found]


def test_the_methods_are_ranked_and_the_best_is_marked(results, tmp_path):
    second = tmp_path / "second"
    evaluate(second, sharpen=0.5, method="less")
    html, _ = page(results, second)
    for protocol in ("kedusr-float", "png8"):
        assert rows_of(html, protocol) == [("ours", True), ("less", False), ("bicubic", False)]
    head = html.partition('class="summary"')[2].partition("</thead>")[0]
    assert head.count("<button") == 7
    assert head.count('aria-sort="descending"') == 1


def test_metrics_of_other_libraries_have_a_column_and_a_table(results, tmp_path):
    folder = tmp_path / "others"
    images = [
        image._replace(others={"piq:gmsd": value, "piq:total_variation": value})
        if image.protocol == "png8"
        else image
        for image in evaluate(folder)
        for value in [0.25 if image.method == "ours" else 0.5]
    ]
    found = gains(images, "bicubic")
    write_tables(str(folder), images, summarize(images), found, "", {"data": "d"})
    html, _ = page(folder)
    means = html.partition("Summary, png8")[2].partition("</table>")[0]
    assert "piq:gmsd, full" in means
    assert 'class="best" data-value="0.25">0.2500' in means
    assert means.count('data-value="-0.25">-0.2500') == 2
    assert means.count('class="better" data-value="-0.25"') == 1  # neither way in the other metric
    assert "piq:gmsd" not in html.partition("Summary, kedusr-float")[2].partition("</table>")[0]
    assert "<option>piq:gmsd, png8</option>" in html


def test_names_are_text_whatever_they_hold(tmp_path):
    method = EVIL.replace("/", "")
    folder = tmp_path / "<b>results"
    evaluate(folder, method=method, num=2)
    html, parsed = page(folder)
    assert EVIL not in html
    assert method not in html
    assert all("onerror" not in attributes for _, attributes in parsed.tags)
    assert method in parsed.views["picture-0"]["frames"][0]["layers"]
    assert sum(tag == "script" for tag, _ in parsed.tags) == 2


def test_a_page_that_cannot_hold_all_takes_both_ends_and_says_so(results):
    html, parsed = page(results, max_pictures=2)
    images = [each for each in evaluate(results) if each.protocol == "png8"]
    psnr = {(each.id, each.method): each.scores.full_psnr for each in images}
    gain = {id: psnr[id, "ours"] - psnr[id, "bicubic"] for id, _ in psnr}
    assert set(parsed.views) == {min(gain, key=gain.get), max(gain, key=gain.get)}
    assert re.search(r"2 of 6 pictures\s+are\s+in this page", html)
    small = page(results, max_mb=0.05)[1].views
    assert 0 <= len(small) < 2
    assert len(page(results)[1].views) == 6


def test_results_without_pictures_still_make_tables_and_plots(results):
    html, parsed = page(results, max_pictures=0)
    assert parsed.views == {}
    assert "No pictures were kept" in html
    assert html.count("<svg") == 3


def test_two_results_are_compared_picture_by_picture(results, tmp_path):
    second = tmp_path / "second"
    theirs = evaluate(second, sharpen=0.5)
    html, parsed = page(results, second)
    layers = parsed.views["picture-0"]["frames"][0]["layers"]
    assert list(layers)[:2] == ["ours (first)", "ours (second)"]
    assert {"bicubic", "HR (truth)", "Ref (tele)"} < layers.keys()
    assert "ours (second) − ours (first)" in html
    renamed = [each._replace(method="theirs") for each in theirs if each.method == "ours"]
    both = [*evaluate(results), *renamed]
    paired = next(
        gain
        for gain in gains([each for each in both if each.method != "bicubic"], "ours")
        if (gain.protocol, gain.column) == ("png8", "full_psnr")
    )
    assert f"{paired.interval.low:+.2f} to {paired.interval.high:+.2f}" in html


def test_results_of_other_pictures_are_refused(results, tmp_path):
    fewer, darker = tmp_path / "fewer", tmp_path / "darker"
    evaluate(fewer, num=5)
    evaluate(darker, seed=1)
    with pytest.raises(ValueError, match=r"different pictures or protocols, such as picture-5"):
        write_report(options(results, fewer))
    with pytest.raises(ValueError, match=r"bicubic's PSNR of picture-0 is .* different data"):
        write_report(options(results, darker))
    with pytest.raises(FileNotFoundError, match=r"no per_image\.parquet"):
        write_report(options(tmp_path / "none"))
    with pytest.raises(ValueError, match="name one folder or more"):
        ReportOptions(results=())


def test_a_perfect_picture_does_not_break_the_page(tmp_path):
    folder = tmp_path / "perfect"
    evaluate(folder, sharpen=10 / 3, num=3)  # the last one is the truth itself
    html, _ = page(folder)
    assert "inf" in html


def test_the_same_results_give_the_same_page(results):
    assert page(results)[0] == page(results)[0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_on_its_ground(theme):
    blocks = (TEMPLATES / "report.css").read_text().split("}")
    colors = dict(re.findall(r"--(\w+): (#\w{6});", blocks[theme == "dark"]))
    for ink in ("ink", "soft", "accent", "better", "worse"):
        for ground in ("paper", "panel"):
            assert contrast(colors[ink], colors[ground]) >= 4.5, (ink, ground)


def contrast(first: str, second: str) -> float:
    """Of WCAG 2: 4.5 is what text needs."""

    def luminance(color: str) -> float:
        channels = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)
