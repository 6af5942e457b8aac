"""The data card: whole, harmless HTML that shows the numbers, and no id."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audited_log import DAY, START, TYPES, Log

from twotower.audit.findings import CHECKS, error, warning
from twotower.core.files import read_json, write_json
from twotower.core.schema import FEATURES_FILE, Prepared
from twotower.report import data_card_plots as plots
from twotower.report.data_card import data_card

VOID = {"meta", "br", "path", "use", "rect"}


class Page(HTMLParser):
    """The page's text, and a check that its elements are closed in their order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():  # not the template's line breaks
            self.text += data.strip() + "|"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, dict[str, Any]]:
    return Log().write(tmp_path_factory.mktemp("card") / "prepared")


def changed(statistics: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(statistics)), **values}


def test_it_is_one_harmless_page_that_is_the_same_each_time(clean: tuple[Prepared, dict[str, Any]]) -> None:
    html = data_card(*clean, [])
    page = Page(html)
    assert html.startswith("<!doctype html>") and html == data_card(*clean, [])
    assert not {"script", "link", "img", "iframe", "object", "image", "foreignobject"} & set(page.tags)
    assert "http" not in html.replace("http-equiv", "") and "@import" not in html and "url(http" not in html
    for name, value in page.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "href")
        assert name != "xlink:href" or (value or "").startswith("#")
    assert ("name", "viewport") in page.attributes and "prefers-color-scheme: dark" in html
    assert len(html) < 150_000
    assert str(clean[0].path) not in html


def test_every_reference_within_it_leads_somewhere(clean: tuple[Prepared, dict[str, Any]]) -> None:
    html = data_card(*clean, [])
    targets = set(re.findall(r' id="([^"]+)"', html))
    asked = set(re.findall(r'xlink:href="#([^"]+)"', html)) | set(re.findall(r"url\(#([^)]+)\)", html))
    assert asked and asked <= targets


def test_it_shows_what_was_read_kept_and_dropped(clean: tuple[Prepared, dict[str, Any]]) -> None:
    prepared, statistics = clean
    rows = {"read": 20_000, "kept": 12_000, "dropped": {"no item_id": 7_990, "duplicate of another row": 1}}
    text = Page(data_card(prepared, changed(statistics, rows=rows), [])).text
    assert "left out: no item_id|7,990|39.95%|left out: duplicate of another row|1|<0.01%|kept|12,000|60%" in text
    assert "20,000|rows read" in text and "2,000|sessions" in text and "50|items" in text
    assert "Events from 2025-03-03 to 2025-03-30" in text
    assert "cut by gaps of over 30 minutes" in text
    types = statistics["types"]
    for name in TYPES:
        assert f"{name}|{types[name]['train']:,}|{types[name]['validation']:,}|{types[name]['test']:,}|" in text


def test_findings_stand_first_and_errors_before_warnings(clean: tuple[Prepared, dict[str, Any]]) -> None:
    text = Page(data_card(*clean, [])).text
    assert f"The audit found nothing in {len(CHECKS)} checks" in text
    findings = [warning("bots", "robots <are> here"), error("timestamp_unit", "two units & more")]
    html = data_card(*clean, findings)
    text = Page(html).text
    assert "found nothing" not in text
    places = [
        text.index(part) for part in ("Error: Timestamps of several units|Two units & more", "Robots <are>", "Rows")
    ]
    assert places == sorted(places)
    assert 'class="finding error"' in html and 'class="finding warning"' in html


def test_names_of_any_kind_are_harmless(clean: tuple[Prepared, dict[str, Any]]) -> None:
    prepared, statistics = clean
    evil = ["<script>alert(1)</script>", "_$a^{b", "view & 'more\"", "x" * 200]
    types = {name: {"train": 10, "validation": 1, "test": 1} for name in evil}
    days = {day: dict.fromkeys(evil, 3) for day in statistics["days"]}
    rows = {"read": 9, "kept": 8, "dropped": {"<i>bad</i>": 1}}
    html = data_card(prepared, changed(statistics, types=types, days=days, rows=rows), [])
    page = Page(html)
    assert "script" not in page.tags and "i>bad" not in page.tags
    for name in evil:
        assert f"{name}|" in page.text


def test_inputs_and_features_are_summed_up(tmp_path: Path) -> None:
    log = Log()
    log.device[:1200] = 0  # of 12,000
    log.category[:5] = 0  # of 50
    text = Page(data_card(*log.write(tmp_path / "prepared"), [])).text
    assert "device|4|4|10%" in text
    assert "category|categorical|4|10%" in text
    assert "phone" not in text and "item-" not in text


def test_ordinals_have_no_clocks(tmp_path: Path) -> None:
    log = Log()
    log.unit, log.kind = "ordinal", "predefined"
    log.time = np.arange(len(log.time))
    text = Page(data_card(*log.write(tmp_path / "prepared"), [])).text
    assert "an order without times" in text
    assert "Events over time" not in text and "Hour of the day" not in text


def test_one_type_has_no_funnel_and_one_day_no_course(tmp_path: Path) -> None:
    log = Log()
    log.time = START + log.time % DAY
    prepared, statistics = log.write(tmp_path / "prepared")
    statistics["types"] = {"view": statistics["types"]["view"]}
    text = Page(data_card(prepared, statistics, [])).text
    assert "Funnel" not in text and "Events over time" not in text and "Hour of the day" in text


def test_the_zone_is_named(tmp_path: Path) -> None:
    prepared, statistics = Log().write(tmp_path / "prepared")
    features = read_json(prepared.path / FEATURES_FILE, "")
    write_json(prepared.path / FEATURES_FILE, {**features, "time_zone": "Asia/Tokyo"})
    assert "by the clocks of Asia/Tokyo" in Page(data_card(prepared, statistics, [])).text


def ticks(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def curve(svg: str) -> np.ndarray[Any, Any]:
    """[points, 2] of the first line in a plot's own colour; y grows downwards."""
    path = re.search(rf'<path d="([^"]*)"[^>]*stroke: {plots.COLORS[0]}', svg)
    assert path
    return np.array([[float(x), float(y)] for x, y in re.findall(r"[ML] (\S+) (\S+)", path[1])])


def test_the_course_over_time_is_drawn_to_scale() -> None:
    days = {f"2025-01-{day:02}": {"view": 10 * day} for day in (1, 2, 4)}
    svg = plots.events_over_time(days, ["view"], {"test_start": START})
    x, y = curve(svg).T
    np.testing.assert_allclose(np.diff(x) / (x[1] - x[0]), 1, rtol=1e-3)  # the day between has its place
    bottom = y[2]  # no events
    np.testing.assert_allclose((bottom - y) / (bottom - y[0]), [1, 2, 0, 4], rtol=1e-3, atol=1e-9)
    assert " test " in ticks(svg) and " validation " not in ticks(svg)


def test_many_days_are_gathered() -> None:
    days = {str(day): {"view": 8} for day in np.arange(np.datetime64("2015-01-01"), np.datetime64("2025-01-01"))}
    x, y = curve(plots.events_over_time(days, ["view"], {})).T
    assert len(x) <= plots.POINTS
    np.testing.assert_allclose(y, y[0])  # a rate: the shorter last stretch is not lower


def test_session_lengths_are_a_falling_share() -> None:
    svg = plots.session_lengths(np.array([2, 4, 40]), np.array([900, 90, 10]))
    _, y = curve(svg).T
    levels = np.unique(y.round(3))  # 100 %, 10 %, 1 %
    assert len(levels) == 3
    np.testing.assert_allclose(np.diff(levels)[0], np.diff(levels)[1], rtol=1e-3)
    assert {"100%", "10%", "1%"} <= set(ticks(svg))


def test_popularity_falls_on_logarithmic_axes() -> None:
    counts = np.array([1, 0, 100, 10])  # of any order; what was never trained is not drawn
    x, y = curve(plots.popularity(counts)).T
    assert len(x) == 3 and (np.diff(x) > 0).all()
    np.testing.assert_allclose(y[1] - y[0], y[2] - y[1], rtol=1e-3)
