"""The page in a real browser, on a real server of the demo bundle; answers are compared with the server's own."""

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from live_server import live_server
from playwright.sync_api import BrowserContext, Page, expect

from twotower.commands.demo import BUNDLE
from twotower.serving.retriever import Retriever
from twotower.serving.updates import delta

pytest_plugins = ["browser"]
PATIENCE_MS = 30_000  # for a machine that does other things, too
expect.set_options(timeout=PATIENCE_MS)
TENT, JACKET = "tent", "rain jacket"
MARKUP = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>"
TOKEN = "a-token-of-this-test"  # reads; the server of two models wants one
HOSTILE = {"title": [MARKUP], "category": ["<b>Camping</b>"], "brand": [MARKUP], "price": [9.0]}


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    with live_server(BUNDLE, "--ui") as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The demo, with an item whose name is markup, beside one that lacks some items that go with a tent."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in ("champion", "challenger"):
        shutil.copytree(BUNDLE, folder / name)
    delta.upsert(folder / "champion", pa.table({"item_id": ["<i>sku</i>"], **HOSTILE}))
    names = pq.read_table(BUNDLE / "items.parquet", columns=["item_id", "item_name"])
    tents = names.filter(pc.match_substring(names["item_name"], TENT))["item_id"].to_pylist()
    delta.remove(folder / "challenger", Retriever.load(BUNDLE).recommend([tents]).ids[0][1:10:4])
    (folder / "tokens.json").write_text(json.dumps({TOKEN: "read"}))
    options = ["--ui", "--challenger", folder / "challenger", "--share", 0.5, "--tokens", folder / "tokens.json"]
    with live_server(folder / "champion", *options) as server:
        yield f"http://127.0.0.1:{server.port}"


def most_frequent(number: int) -> list[str]:
    counts = pq.read_table(BUNDLE / "items.parquet", columns=["item_id", "train_count"])
    return [str(item) for item in counts.sort_by([("train_count", "descending")])["item_id"][:number].to_pylist()]


def asked(address: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(address + path, data, headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


@pytest.fixture
def page(browser: BrowserContext) -> Iterator[Page]:
    """A tab whose errors, and requests to other hosts, fail the test."""
    tab = browser.new_page()
    tab.set_default_timeout(PATIENCE_MS)
    tab.add_init_script(f"location.protocol === 'http:' && sessionStorage.setItem('twotower-token', '{TOKEN}')")
    faults: list[str] = []
    hosts: set[str] = set()
    tab.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda request: hosts.add(re.split("[/:]", request.url)[3]))
    yield tab
    tab.close()
    assert faults == []
    assert hosts <= {"127.0.0.1"}


def opened(page: Page, address: str, hash_: str = "") -> None:
    page.goto("about:blank")
    page.goto(f"{address}/{hash_}")
    expect(page.locator(".list [data-answer]").first).to_be_visible()


def shown(page: Page, bucket: str = "champion") -> list[str]:
    return page.eval_on_selector_all(f"[data-bucket={bucket}] [data-answer]", "all => all.map(e => e.dataset.answer)")


def expect_answer(page: Page, address: str, body: dict[str, Any], bucket: str | None = None) -> list[str]:
    """Wait until the page shows what the server answers to this body, scores and all; return the ids."""
    answer = asked(address, "/recommend", {"k": 10, **body, **({"bucket": bucket} if bucket else {})})
    ids = [str(each["item_id"]) for each in answer["items"]]
    wanted = json.dumps([ids, [f"{each['score']:.3f}" for each in answer["items"] if each["score"] is not None]])
    page.wait_for_function(
        """([bucket, wanted]) => {
            const rows = [...document.querySelectorAll(`[data-bucket=${bucket}] [data-answer]`)];
            const scores = rows.map((row) => row.querySelector("[title=score]")?.textContent).filter(Boolean);
            const shown = JSON.stringify([rows.map((row) => row.dataset.answer), scores]);
            return shown === JSON.stringify(JSON.parse(wanted));
        }""",
        arg=[bucket or "champion", wanted],
    )
    return ids


def find(page: Page, text: str) -> None:
    page.get_by_label("Name or number").fill(text)
    last = text.split()[-1]
    expect(page.locator("#results .pick .name").first).to_contain_text(re.compile(re.escape(last), re.IGNORECASE))


def pick(page: Page, text: str) -> str:
    """Click the first item that a search finds; return its id."""
    find(page, text)
    first = page.locator("#results .pick").first
    item = first.get_attribute("data-item")
    first.click()
    assert item is not None
    return item


def test_a_history_of_clicks_gets_the_servers_answers_and_reasons(page: Page, shop: str) -> None:
    opened(page, shop)
    popular = expect_answer(page, shop, {})
    assert popular == most_frequent(10)
    expect(page.locator("#about")).to_contain_text("most frequent")
    tent = pick(page, TENT)
    first = expect_answer(page, shop, {"history": [{"item_id": tent, "event_type": "view"}]})
    assert first != popular
    page.get_by_label("cart", exact=True).check()
    jacket = pick(page, JACKET)
    history = [{"item_id": tent, "event_type": "view"}, {"item_id": jacket, "event_type": "cart"}]
    assert expect_answer(page, shop, {"history": history}) != first

    answer = asked(shop, "/recommend", {"history": history, "k": 10, "explain": True})["items"][0]
    total = sum(abs(reason["share"]) for reason in answer["reasons"])
    shares = [abs(reason["share"]) / total for reason in answer["reasons"]]
    reasons = page.locator("[data-answer]").first.locator(".why li")
    expect(reasons).to_have_count(sum(share >= 0.01 for share in shares))
    expect(reasons.first).to_contain_text(f"{100 * shares[0]:.0f}\u00a0%")
    name = asked(shop, f"/items/{answer['reasons'][0]['item_id']}")["item_name"]
    expect(reasons.first).to_contain_text(name)

    page.get_by_label(re.compile("^Earlier:")).nth(1).click()
    expect_answer(page, shop, {"history": history[::-1]})
    page.get_by_label(re.compile("^What was done with")).first.select_option("purchase")
    expect_answer(page, shop, {"history": [{"item_id": jacket, "event_type": "purchase"}, history[0]]})
    link = page.url
    page.get_by_label(re.compile("^Remove")).first.click()
    expect_answer(page, shop, {"history": history[:1]})
    opened(page, shop, link.removeprefix(f"{shop}/") + "&click=nonsense&k=-1")  # shows the same as then
    expect_answer(page, shop, {"history": [{"item_id": jacket, "event_type": "purchase"}, history[0]]})


def test_each_control_changes_the_answer_as_the_server_does(page: Page, shop: str) -> None:
    opened(page, shop)
    body: dict[str, Any] = {"history": [{"item_id": pick(page, TENT), "event_type": "view"}]}
    plain = expect_answer(page, shop, body)
    page.get_by_label("Recommend what is likely to be a").select_option("purchase")
    assert expect_answer(page, shop, body | {"objective": "purchase"}) != plain
    page.get_by_label("Recommend what is likely to be a").select_option("")
    page.get_by_label("Leave out what the visitor has seen").check()
    body["exclude_seen"] = True
    assert body["history"][0]["item_id"] not in expect_answer(page, shop, body)
    page.get_by_text("Only some items").click()
    page.get_by_label("Hiking", exact=True).check()
    page.get_by_label("price, at most").fill("60")
    body["filters"] = {"category": ["Hiking"], "price": {"max": 60}}
    filtered = expect_answer(page, shop, body)
    assert {asked(shop, f"/items/{item}")["category"] for item in filtered} == {"Hiking"}
    page.get_by_label("price, at most").fill("1")
    expect(page.locator("#about")).to_contain_text("No item fits")
    page.get_by_role("button", name="All items again").click()
    del body["filters"]
    page.get_by_label("Surprise").fill("40")
    page.get_by_label("Number of the draw").fill("7")
    expect_answer(page, shop, body | {"exploration": 0.4, "seed": 7})
    page.get_by_label("How many").fill("3")
    expect_answer(page, shop, body | {"exploration": 0.4, "seed": 7, "k": 3})


def test_similar_items_the_map_and_the_figures(page: Page, shop: str) -> None:
    opened(page, shop)
    tent = pick(page, TENT)
    expect_answer(page, shop, {"history": [{"item_id": tent, "event_type": "view"}]})
    page.locator("#results .like").first.click()
    rows = page.locator("#similar-items .pick")
    expected = [each["item_id"] for each in asked(shop, "/similar", {"item_id": tent, "k": 12})["items"]]
    expect(rows).to_have_count(12)
    assert rows.evaluate_all("all => all.map(e => e.dataset.item)") == expected
    page.keyboard.press("Escape")
    expect(page.locator("#similar")).to_be_hidden()

    page.locator("#map").focus()
    page.keyboard.press("ArrowRight")
    label = page.locator("#map-label")
    expect(label).to_be_visible()
    name = label.text_content()
    page.keyboard.press("Enter")
    expect(page.locator("#history .name").last).to_have_text(str(name))
    page.locator("#zoom-in").click()
    box = page.locator("#map").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)  # the visitor is in the middle
    expect(page.locator("#live dd").nth(3)).not_to_have_text("0")


def test_a_visitor_is_kept_loaded_and_forgotten(page: Page, shop: str) -> None:
    opened(page, shop)
    items = [pick(page, TENT), pick(page, JACKET)]
    page.get_by_label("Visitor known to the server").fill("visitor 1/ü")
    page.get_by_role("button", name="Keep these clicks").click()
    expect(page.locator("#stored li")).to_have_count(2)
    kept = asked(shop, "/users/visitor%201%2F%C3%BC")["events"]
    assert [event["item_id"] for event in kept] == items
    history = [{"item_id": item, "event_type": "view"} for item in items]
    ids = expect_answer(page, shop, {"history": history})
    assert ids == expect_answer(page, shop, {"user_id": "visitor 1/ü"})
    page.get_by_role("button", name="Forget the visitor").click()
    expect(page.locator("#stored")).to_be_hidden()
    assert asked(shop, "/users/visitor%201%2F%C3%BC")["events"] == []


def test_the_keyboard_alone_is_enough(page: Page, shop: str) -> None:
    opened(page, shop)
    page.locator("body").focus()
    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    for _ in range(2):  # the choice of a type, then the search
        page.keyboard.press("Tab")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type(TENT)
    number = asked(shop, f"/items?search={TENT}")["total"]
    expect(page.locator("#found")).to_have_text(f"{number} items, the most frequent first")
    page.keyboard.press("Tab")
    if page.evaluate("document.activeElement.id") == "results":  # a list that scrolls takes the focus, too
        page.keyboard.press("Tab")
    item = page.evaluate("document.activeElement.dataset.item")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect_answer(page, shop, {"history": [{"item_id": item, "event_type": "view"}]})
    page.keyboard.press("Enter")  # the focus has stayed
    expect(page.locator("#history li")).to_have_count(2)
    expect(page.locator("#status")).to_contain_text("10 recommendations, the first is")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_is_wide_enough_nothing_jumps_and_texts_have_contrast(page: Page, two_models: str, scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    page.add_init_script(SHIFTS)
    page.set_viewport_size({"width": 360, "height": 740})
    opened(page, two_models)
    assert page.evaluate("shifts") < 0.1  # what web.dev calls good
    pick(page, TENT)
    expect(page.locator(".why").first).to_be_visible()
    page.get_by_text("Only some items").click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) >= 4.5  # WCAG 2.2, AA
    page.set_viewport_size({"width": 1400, "height": 1000})


SHIFTS = """window.shifts = 0;
new PerformanceObserver((list) => list.getEntries().forEach((each) => { window.shifts += each.value; }))
    .observe({ type: "layout-shift", buffered: true });"""
CONTRAST = """() => {
    // The least contrast of a text with what lies behind it.
    const light = (colour) => {
        const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => linear(v / 255));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (e) => {
        for (; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (!/, 0\\)$/.test(colour)) return colour;
        }
        return "rgb(255, 255, 255)";
    };
    const texts = [...document.querySelectorAll("body *")].filter((e) =>
        e.offsetParent && !e.disabled && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
    return Math.min(...texts.map((e) => {
        const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
        return (a + 0.05) / (b + 0.05);
    }));
}"""


def test_two_models_side_by_side_with_changes_of_rank(page: Page, two_models: str) -> None:
    opened(page, two_models)
    body = {"history": [{"item_id": pick(page, TENT), "event_type": "view"}]}
    lists = [expect_answer(page, two_models, body, bucket) for bucket in ("champion", "challenger")]
    assert lists[0] != lists[1]
    marks = page.eval_on_selector_all(
        "[data-bucket=challenger] [data-answer] .side", "all => all.map(e => e.querySelector('.mark').firstChild.data)"
    )
    expected = []
    for place, item in enumerate(lists[1]):
        shift = lists[0].index(item) - place if item in lists[0] else None
        text = "only here" if shift is None else "=" if not shift else f"{'▲' if shift > 0 else '▼'} {abs(shift)}"
        expected.append(text)
    assert marks == expected
    assert len(set(marks)) > 1


def test_markup_in_names_is_text(page: Page, two_models: str) -> None:
    opened(page, two_models)
    find(page, "onerror")
    expect(page.locator("#results .pick .name").first).to_have_text(MARKUP)
    page.locator("#results .pick").first.click()
    expect(page.locator("#history .name").first).to_have_text(MARKUP)
    expect(page.locator(".why .what").first).to_contain_text(MARKUP)
    page.locator("#results .like").first.click()
    expect(page.locator("#similar-title")).to_have_text(f"Items like {MARKUP}")
    assert page.evaluate("window.harmed") is None
    assert page.locator("main img, main script, dialog img").count() == 0


def test_a_token_is_asked_for_and_refusals_are_told_in_words(browser: BrowserContext, two_models: str) -> None:
    tab = browser.new_page()  # without a token; its console says 401 and 403
    tab.goto(f"{two_models}/")
    tab.get_by_label("This server asks for a token").fill("a wrong token of this test")
    tab.get_by_role("button", name="Use it").click()
    tab.get_by_label("The server does not know this token").fill(TOKEN)
    tab.get_by_role("button", name="Use it").click()
    expect(tab.locator("[data-bucket=champion] [data-answer]")).to_have_count(10)
    expect(tab.locator("#token-form")).to_be_hidden()
    tab.get_by_label("Visitor known to the server").fill("u")
    tab.get_by_role("button", name="Load").click()
    expect(tab.locator("#problem")).to_contain_text("the token has the role read")
    tab.close()
