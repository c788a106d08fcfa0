"""The playground in a headless Chromium, against an endpoint that plays a script, then against the real one."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from serve.http.api import create_app
from serve.http.keys import Keys
from serve.http.playground import playground_router
from serve.http.service import Service
from serve.policies.menu import menu_of_granularities
from tests.serve.http.toy_playground import LOSS, PIECES, STEP_MS, Script, Stage, last, piece, refusal, serving, toy_app
from tests.serve.models import CONFIG


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A real server, once for all tests."""
    stage = Stage(Script())
    with serving(toy_app(stage)) as stage.url:
        yield stage


@pytest.fixture
def script(stage: Stage) -> Iterator[Script]:
    stage.script = script = Script(chunks=[*PIECES, last()])
    yield script
    script.go = True


@pytest.fixture(scope="module")
def window(browser: Browser) -> Iterator[Page]:
    """One for all tests, since opening it takes longer than most of them. It may never ask another host."""
    page = browser.new_page()
    page.set_default_timeout(600_000)
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    yield page
    page.close()
    assert len(hosts) == 1


@pytest.fixture
def page(window: Page, stage: Stage, script: Script) -> Iterator[Page]:
    """The page, ready to ask. No error may be left in its console."""
    window.set_viewport_size({"width": 1280, "height": 900})
    window.emulate_media(color_scheme="light", reduced_motion="reduce")
    window.goto(stage.url)
    expect(window.locator("#model option")).not_to_have_count(0)
    yield window
    assert window.page_errors(filter="since-navigation") == []


def send(page: Page) -> None:
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#status")).not_to_be_empty()


def ring(page: Page, name: str) -> str | None:
    """The submodel that a ring is on, as drawn: the one whose point it surrounds."""
    places = page.locator("#frontier").evaluate(
        """(svg, id) => {
          const ring = svg.querySelector(id);
          const at = new DOMMatrix(getComputedStyle(ring).transform);
          const points = [...svg.querySelectorAll(".point")];
          const near = (each) => Math.hypot(each.cx.baseVal.value - at.e, each.cy.baseVal.value - at.f) < 1;
          return ring.style.visibility === "visible" ? points.filter(near).map((each) => each.dataset.submodel) : [];
        }""",
        name,
    )
    assert len(places) <= 1
    return str(places[0]) if places else None


def expect_ring(page: Page, name: str, submodel: str | None) -> None:
    """It takes half a second to get there."""
    while ring(page, name) != submodel:
        page.wait_for_timeout(50)


def slide(page: Page, position: int) -> None:
    page.get_by_role("slider", name="Latency budget").fill(str(position))


def colour(locator: Locator, what: str = "backgroundColor") -> str:
    return str(locator.evaluate("(element, what) => getComputedStyle(element)[what]", what))


def test_tokens_have_the_colour_of_the_submodel_that_wrote_them(page: Page) -> None:
    send(page)
    runs = page.locator("#answer .run")
    assert [run.text_content() for run in runs.all()] == [" strong and", " free today"]
    assert [run.get_attribute("data-submodel") for run in runs.all()] == ["S", "XL"]
    assert page.locator("#answer").text_content() == "The state of the Union is strong and free today"
    assert colour(runs.first) != colour(runs.last)
    swatches = page.locator("#frontier .point")
    points = {each.get_attribute("data-submodel"): colour(each, "fill") for each in swatches.all()}
    assert len(set(points.values())) == 4
    strip = page.locator("#strip div")
    assert [colour(part) for part in strip.all()] == [points["S"], points["XL"]]
    assert [part.evaluate("part => Number(part.style.flexGrow)") for part in strip.all()] == [2, 3]


def test_the_legend_counts_tokens_widest_first(page: Page) -> None:
    send(page)
    legend = page.get_by_role("list", name="Tokens by the submodel").get_by_role("listitem")
    assert legend.all_inner_texts() == ["XL 3 tokens · 60 %", "S 2 tokens · 40 %"]
    expect(page.locator("#status")).to_have_text("5 tokens · reached max tokens")


def test_numbers_are_the_servers_own_when_it_has_given_them(page: Page) -> None:
    send(page)
    assert page.locator("#speed").text_content() == "50"
    assert page.locator("#ttft").text_content() == "10.0 ms"
    assert page.locator("#elapsed").text_content() == "90.0 ms"
    assert page.locator("#predicted").text_content() == "Predicted 88.0 ms when it began, took 90.0 ms"


def test_while_it_streams_the_operating_point_and_the_speed_follow(page: Page, script: Script) -> None:
    script.go = False
    expect_ring(page, "#now", None)
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#answer .run")).to_have_text(" strong", use_inner_text=False)
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "true")
    expect(page.get_by_role("button", name="Generate")).to_be_hidden()
    expect_ring(page, "#now", "S")
    assert page.locator("#ttft").text_content() == "10.0 ms"
    assert page.locator("#speed").text_content() == "–"
    script.chunks.insert(3, piece("!", "XL", 1, 130.0))  # five tokens in the 120 ms after the first one
    script.chunks.pop()
    script.go = True
    expect(page.locator("#status")).to_have_text("6 tokens · stopped")
    assert page.locator("#speed").text_content() == "42"
    expect_ring(page, "#now", "XL")
    expect(page.locator("#answer")).to_have_attribute("aria-busy", "false")


def test_what_is_asked_is_what_the_page_shows(page: Page, script: Script) -> None:
    page.get_by_label("Prompt").fill("Of the people, ")
    page.get_by_label("Max tokens").fill("12")
    page.get_by_label("Temperature").fill("1.2")
    page.get_by_role("combobox", name="Model").select_option("toy:M")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Refuse").check()
    send(page)
    expected = {"model": "toy:M", "prompt": "Of the people, ", "max_tokens": 12, "temperature": 1.2, "seed": 7}
    assert script.bodies == [expected | {"stream": True}]
    (headers,) = script.headers
    assert (headers["x-lts-trace"], headers["x-slo-strict"]) == ("true", "true")
    assert not [name for name in headers if name.startswith(("x-slo-e2e", "x-slo-tpot", "x-slo-ttft", "authorization"))]


@pytest.mark.parametrize(
    ("label", "header"),
    [("whole response", "x-slo-e2e-ms"), ("each token", "x-slo-tpot-ms"), ("first token", "x-slo-ttft-ms")],
)
def test_a_budget_goes_into_the_header_of_its_kind(page: Page, script: Script, label: str, header: str) -> None:
    page.get_by_role("radio", name=label).check(force=True)
    page.get_by_label("Budget in milliseconds").fill("70.5")
    send(page)
    asked = {name: value for name, value in script.headers[0].items() if name.startswith("x-slo")}
    assert asked == {header: "70.5"}


def test_the_slider_goes_from_none_over_what_each_submodel_keeps_to_too_tight(page: Page) -> None:
    number = page.get_by_label("Budget in milliseconds")
    slider = page.get_by_role("slider", name="Latency budget")
    expect(number).to_have_value("")
    expect_ring(page, "#preview", "XL")
    slide(page, 1)
    expect(number).to_have_value(str(round(3 * 64 * STEP_MS["XL"])))
    expect(slider).to_have_attribute("aria-valuetext", "753 ms for the whole response")
    expect_ring(page, "#preview", "XL")
    seen = []
    for position in range(1, 101, 6):
        slide(page, position)
        name = page.locator("#preview").get_attribute("data-submodel")
        assert name is not None
        ms = float(number.input_value())
        affordable = [each for each, step_ms in STEP_MS.items() if 64 * step_ms <= ms]
        assert name == (affordable[0] if affordable else "S")
        seen.append(name)
    assert list(dict.fromkeys(seen)) == ["XL", "L", "M", "S"]
    slide(page, 0)
    expect(number).to_have_value("")


def test_a_typed_budget_moves_the_slider_to_the_mark_of_the_submodel_that_just_keeps_it(page: Page) -> None:
    marks = page.locator("#marks span")
    assert [mark.get_attribute("data-submodel") for mark in marks.all()] == ["XL", "L", "M", "S"]
    page.get_by_label("Budget in milliseconds").fill(str(64 * STEP_MS["L"]))
    at = float(page.get_by_role("slider", name="Latency budget").input_value())
    mark = marks.nth(1).evaluate("mark => parseFloat(mark.style.left)")
    assert at == pytest.approx(mark, abs=0.5)
    expect_ring(page, "#preview", "L")


def test_a_budget_stays_when_the_length_changes_and_is_as_tight_when_its_kind_does(page: Page) -> None:
    number, slider = page.get_by_label("Budget in milliseconds"), page.get_by_role("slider", name="Latency budget")
    number.fill(str(64 * STEP_MS["M"]))
    at_mark = float(slider.input_value())
    page.get_by_role("radio", name="each token").check(force=True)
    assert float(number.input_value()) == pytest.approx(STEP_MS["M"], rel=0.02)  # the slider's steps are whole
    page.get_by_role("radio", name="whole response").check(force=True)
    assert float(slider.input_value()) == at_mark
    number.fill("200")
    tight = float(slider.input_value())
    page.get_by_label("Max tokens").fill("32")
    expect(number).to_have_value("200")
    assert float(slider.input_value()) < tight


def test_the_slider_works_with_the_keyboard_alone_and_so_does_asking(page: Page, script: Script) -> None:
    page.get_by_role("slider", name="Latency budget").focus()
    page.keyboard.press("End")
    tightest = page.get_by_label("Budget in milliseconds").input_value()
    assert float(tightest) == pytest.approx(0.6 * 64 * STEP_MS["S"], rel=0.01)
    page.get_by_label("Prompt").focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#status")).not_to_be_empty()
    assert script.headers[0]["x-slo-e2e-ms"] == tightest


def test_a_pinned_submodel_is_what_the_budget_affords(page: Page) -> None:
    page.get_by_role("combobox", name="Model").select_option("toy:S")
    expect_ring(page, "#preview", "S")


@pytest.mark.parametrize(
    ("label", "budget", "met", "text", "share", "state"),
    [
        ("whole response", "200", True, "kept, 110 ms left", "45", "good"),
        ("whole response", "100", True, "kept, 10.0 ms left", "90", "good"),
        ("whole response", "100", None, "10.0 ms left", "90", "close"),
        ("whole response", "60", False, "missed, 30.0 ms over", "100", "over"),
        ("each token", "25", True, "kept, 5.00 ms left", "80", "good"),
        ("first token", "8", False, "missed, 2.00 ms over", "100", "over"),
    ],
)
def test_the_slack_bar_is_the_share_of_the_budget_that_was_used(
    page: Page, script: Script, label: str, budget: str, met: bool | None, text: str, share: str, state: str
) -> None:
    script.chunks[-1] = last(met=met)
    page.get_by_role("radio", name=label).check(force=True)
    page.get_by_label("Budget in milliseconds").fill(budget)
    send(page)
    meter = page.get_by_role("meter")
    expect(page.locator("#slack-left")).to_have_text(text)
    expect(meter).to_have_attribute("aria-valuenow", share)
    expect(meter).to_have_attribute("aria-valuetext", text.rpartition(", ")[2])
    assert [
        name for name in ("close", "over") if meter.evaluate("(bar, name) => bar.classList.contains(name)", name)
    ] == ([] if state == "good" else [state])


def test_without_a_budget_there_is_no_bar(page: Page) -> None:
    send(page)
    expect(page.get_by_role("meter")).to_be_hidden()
    expect(page.locator("#slack-kind")).to_have_text("No budget")


def test_a_refusal_is_shown_in_the_servers_own_words_and_the_next_answer_replaces_it(
    page: Page, script: Script
) -> None:
    script.refusals.append(refusal(429, "no submodel meets the budget; the smallest feasible one is e2e 80 ms"))
    send(page)
    alert = page.get_by_role("alert")
    expect(alert).to_have_text("no submodel meets the budget; the smallest feasible one is e2e 80 ms")
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    send(page)
    expect(page.locator("#answer .run")).to_have_count(2)
    expect(alert).to_be_hidden()


def test_a_server_that_wants_a_key_gets_it(page: Page, script: Script) -> None:
    script.refusals.append(refusal(401, "this server wants an API key"))
    send(page)
    expect(page.get_by_label("API key")).to_be_focused()
    page.get_by_label("API key").fill("secret")
    page.keyboard.press("Tab")
    send(page)
    expect(page.locator("#answer .run")).to_have_count(2)
    assert "authorization" not in script.headers[0]
    assert script.headers[1]["authorization"] == "Bearer secret"


def test_an_error_in_the_middle_of_a_stream_leaves_what_had_come(page: Page, script: Script) -> None:
    script.chunks[2:] = [{"error": {"message": "the engine failed", "type": "server_error"}}]
    page.get_by_label("Budget in milliseconds").fill("60000")
    send(page)
    expect(page.get_by_role("alert")).to_have_text("the engine failed")
    expect(page.locator("#answer .run")).to_have_text(" strong and")
    expect(page.locator("#status")).to_have_text("2 tokens · broke off")
    expect(page.locator("#slack-left")).to_be_empty()


def test_what_is_refused_shows_neither_numbers_nor_time_left(page: Page, script: Script) -> None:
    script.refusals.append(refusal(429, "no submodel meets the budget"))
    page.get_by_label("Budget in milliseconds").fill("60000")
    send(page)
    expect(page.locator("#status")).to_have_text("refused")
    assert [page.locator(f"#{name}").text_content() for name in ("speed", "ttft", "elapsed")] == ["–"] * 3
    expect(page.locator("#slack-left")).to_be_empty()
    expect(page.get_by_role("meter")).to_have_attribute("aria-valuenow", "0")


@pytest.mark.parametrize(
    ("fulfil", "words"),
    [
        ({"status": 502, "body": "<html><h1>Bad Gateway</h1></html>"}, "The server answered 502 Bad Gateway"),
        ({"status": 503, "body": "no replica"}, "The server answered 503 Service Unavailable: no replica"),
        ({"status": 404, "body": ""}, "The server answered 404 Not Found"),
        ({"status": 200, "body": "data: {}\n\n"}, "the stream broke off before its end"),
        ({"status": 200, "body": "data: {\n\n"}, "the stream has an event that cannot be read"),
        ({"status": 200, "body": 'data: {"error": "gone"}\n\n'}, '"gone"'),
        (None, "The server cannot be reached: is it up?"),
    ],
)
def test_whatever_comes_instead_of_an_answer_is_put_in_words(
    page: Page, fulfil: dict[str, Any] | None, words: str
) -> None:
    page.route("**/v1/completions", lambda route: route.abort() if fulfil is None else route.fulfill(**fulfil))
    send(page)
    page.unroute("**/v1/completions")
    expect(page.get_by_role("alert")).to_have_text(words)
    expect(page.get_by_role("button", name="Generate")).to_be_visible()


@pytest.mark.parametrize(
    ("label", "text", "words"),
    [
        ("Prompt", "", "The prompt is empty"),
        ("Prompt", " \n", "The prompt is empty"),
        ("Max tokens", "0", "Max tokens is a whole number"),
        ("Max tokens", "", "Max tokens is a whole number"),
        ("Budget in milliseconds", "-3", "A budget is a number of milliseconds"),
        ("Seed", "9223372036854775807", "A seed is a whole number"),  # as a number of JavaScript, another one
    ],
)
def test_what_cannot_be_sent_is_said_beside_the_button_until_it_is_mended(
    page: Page, script: Script, label: str, text: str, words: str
) -> None:
    page.get_by_text("More", exact=True).click()
    page.get_by_label(label).fill(text)
    page.get_by_text("More", exact=True).click()  # closed: it opens where the mistake is in there
    page.get_by_role("button", name="Generate").click()
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_label(label)).to_be_focused()
    expect(page.get_by_label(label)).to_have_attribute("aria-invalid", "true")
    assert not script.bodies
    page.get_by_label(label).fill("12")
    expect(page.get_by_role("alert")).to_be_hidden()
    send(page)
    assert len(script.bodies) == 1


def served_with(page: Page, **changes: Any) -> None:
    """The page once more, of a server whose frontier differs in this."""
    page.route("**/playground/frontier", lambda route: route.fulfill(json=route.fetch().json() | changes))
    page.reload()
    expect(page.locator("#model option")).not_to_have_count(0)
    page.unroute("**/playground/frontier")


def test_a_model_with_a_chat_template_is_asked_by_it_unless_told_otherwise(page: Page, script: Script) -> None:
    expect(page.get_by_role("radio", name="chat")).to_have_count(0)
    served_with(page, chat=True)
    expect(page.get_by_role("radio", name="chat")).to_be_checked()
    delta = {"index": 0, "delta": {"content": "Yes."}, "finish_reason": None}
    script.chunks[0] = script.chunks[0] | {"choices": [delta]}
    page.get_by_label("Prompt").fill("Is it?")
    send(page)
    assert script.bodies[0]["messages"] == [{"role": "user", "content": "Is it?"}]
    assert "prompt" not in script.bodies[0]
    assert page.locator("#answer .run").first.text_content() == "Yes. and"
    tops = page.locator("#answer span").evaluate_all("spans => spans.map((each) => each.getBoundingClientRect().top)")
    assert tops[1] > tops[0]  # an answer, not the prompt gone on with
    page.get_by_role("radio", name="completion").check(force=True)
    send(page)
    assert script.bodies[1]["prompt"] == "Is it?"
    assert "messages" not in script.bodies[1]


def options(costs: dict[str, float]) -> list[dict[str, Any]]:
    """Submodels by name, widest first, whose loss falls as they cost more."""
    shared = {"decoder_params": 1000, "relative_size": 0.5, "elastic": True}
    return [
        {"name": name, "precision": name.partition("@")[2] or "float32", **shared}
        | dict.fromkeys(("loss", "likely_loss"), 4 - cost / 10)
        | dict.fromkeys(("predicted_ttft_ms", "predicted_tpot_ms"), cost)
        for name, cost in costs.items()
    ]


OVERLAPS = """(selector) => {
  const boxes = [...document.querySelectorAll(selector)].map((each) => each.getBoundingClientRect());
  return boxes.filter((one, place) => boxes.some((other, at) => at < place && one.left < other.right - 1
    && other.left < one.right - 1 && one.top < other.bottom - 3 && other.top < one.bottom - 3)).length;
}"""


@pytest.mark.parametrize(
    "costs",
    [
        {"XL": 2.0, "L": 1.9, "M": 1.85, "S": 1.83},
        {"XL": 2.0, "L": 1.9999, "M": 1.9998, "S": 1.9997},
        {"XL": 2.0, **{f"0.{share}": 1 + share / 100 for share in range(99, 9, -3)}, "S": 1.1},
        {"XL": 40.0, "L": 1.02, "M": 1.01, "S": 1.0},
        {"XL@int8": 2.0, "XL@int4": 1.3, "L@int8": 1.5, "L@int4": 1.1, "M@int8": 1.2, "M@int4": 0.9, "S@int8": 1.0}
        | {"S@int4": 0.8},
    ],
    ids=["close", "equal", "many", "far", "precisions"],
)
@pytest.mark.parametrize("width", [390, 1400])
def test_every_granularity_has_its_name_where_no_other_is(page: Page, costs: dict[str, float], width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    served_with(page, options=options(costs))
    marks = str.maketrans({"8": "₈", "4": "₄"})
    trained = {name.replace("@int", "").translate(marks) for name in costs if name[0].isalpha()}
    for place in ("#marks b", "#frontier .name"):
        names = page.locator(place).all_text_contents()
        assert trained <= set(names), place
        assert len(names) == len(set(names))
        assert page.evaluate(OVERLAPS, place) == 0, place
    assert page.evaluate(OVERLAPS, "#frontier text:not(.name)") == 0  # ticks and titles
    ticks = page.locator("#frontier text[text-anchor=end]").all_text_contents()
    assert len(ticks) == len(set(ticks))


def test_a_long_answer_scrolls_in_its_place_with_what_comes(page: Page, script: Script) -> None:
    script.chunks[0] = piece("word " * 3000, "S", 1, 10.0)
    send(page)
    assert page.evaluate("document.documentElement.scrollHeight < 3 * innerHeight")
    left = page.locator("#answer").evaluate("shown => shown.scrollHeight - shown.scrollTop - shown.clientHeight")
    assert left < 40


def test_text_from_right_to_left_begins_at_the_right(page: Page, script: Script) -> None:
    script.chunks[0] = piece(" עולם 👋", "S", 3, 10.0)
    page.get_by_label("Prompt").fill("שלום")
    assert page.get_by_label("Prompt").evaluate("field => getComputedStyle(field).direction") == "rtl"
    send(page)
    assert page.evaluate(
        """() => {
          const place = (selector) => document.querySelector(selector).getBoundingClientRect();
          const [box, prompt] = [place("#answer"), place("#answer .prompt")];
          return box.right - prompt.right < prompt.left - box.left;
        }"""
    )


def test_the_focus_stays_on_the_button_that_is_shown(page: Page, script: Script) -> None:
    script.go = False
    page.get_by_role("button", name="Generate").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    script.go = True
    expect(page.get_by_role("button", name="Generate")).to_be_focused()


def test_on_a_phone_what_is_tapped_is_large_enough_and_no_field_makes_it_zoom(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    served_with(page, chat=True)
    page.get_by_text("More", exact=True).click()
    small = page.evaluate(
        """() => [...document.querySelectorAll("select, textarea, button:not([hidden]), summary, label:has(input)")]
          .filter((each) => each.getBoundingClientRect().height < 36).map((each) => each.outerHTML)"""
    )
    assert small == []
    sizes = page.locator("textarea, select, input:not([type=radio], [type=range], [type=checkbox])").evaluate_all(
        "fields => fields.map((each) => parseFloat(getComputedStyle(each).fontSize))"
    )
    assert min(sizes) >= 16


def test_what_the_model_writes_is_text_whatever_it_is(page: Page, script: Script) -> None:
    text = "<img src=x onerror=alert(1)><script>alert(2)</script>&amp;"
    script.chunks[0] = piece(text, text, 1, 10.0)
    send(page)
    assert page.locator("#answer .run").first.text_content() == text
    assert page.locator("#answer img, #answer script").count() == 0


def test_stopping_leaves_the_server_and_keeps_the_text(page: Page, script: Script) -> None:
    script.go = False
    page.get_by_role("button", name="Generate").click()
    expect(page.locator("#answer .run")).to_have_count(1)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#status")).to_have_text("1 token · stopped")
    expect(page.get_by_role("alert")).to_be_hidden()
    while not script.left:
        page.wait_for_timeout(25)


def test_the_other_axis_keeps_the_rings_on_their_points(page: Page) -> None:
    send(page)
    expect(page.locator("#frontier")).to_contain_text("3.5")
    page.get_by_role("radio", name="size").check(force=True)
    expect(page.locator("#frontier")).to_contain_text("share of the universal model's size")
    expect(page.locator("#frontier")).not_to_contain_text("3.5")  # milliseconds; shares end at 1
    expect_ring(page, "#now", "XL")
    expect_ring(page, "#preview", "XL")


def test_where_no_loss_was_measured_the_chart_shows_parameters_and_says_so(page: Page) -> None:
    def without_losses(route: Route) -> None:
        body = route.fetch().json()
        route.fulfill(json=body | {"options": [option | {"loss": None} for option in body["options"]]})

    page.route("**/playground/frontier", without_losses)
    page.reload()
    expect(page.locator("#frontier")).to_contain_text("decoder parameters: no loss was measured")
    page.unroute("**/playground/frontier")
    assert page.locator("#frontier text").filter(has_text="-").count() == 0  # no number below zero
    points = page.locator("#frontier .point").evaluate_all("points => points.map((point) => point.cy.baseVal.value)")
    assert points == sorted(points)
    assert len(set(points)) == 4  # widest first and highest


def test_everything_that_takes_input_has_a_name(page: Page) -> None:
    page.get_by_text("More", exact=True).click()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button")].filter(
          (each) => !each.ariaLabel && !each.labels?.[0]?.textContent.trim() && !each.textContent.trim()
        ).map((each) => each.outerHTML)"""
    )
    assert unnamed == []


CONTRAST = """() => {
  // Colours of any notation as sRGB, by painting them.
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const each of colours) { canvas.fillStyle = each; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((each) => each / 255);
  };
  const light = (rgb) => rgb.map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4))
    .reduce((sum, each, place) => sum + each * [0.2126, 0.7152, 0.0722][place], 0);
  const ratio = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const back = (element) => getComputedStyle(element).backgroundColor;
  const behind = (element) => (element ? [...behind(element.parentElement), back(element)] : []);
  const own = (element) => [...element.childNodes].some((each) => each.nodeType === 3 && each.data.trim());
  const shown = (each) => own(each) && each.checkVisibility() && !each.closest("svg, select, .hidden");
  const describe = (each) => [each.textContent.trim(), behind(each), getComputedStyle(each).color];
  const text = [...document.querySelectorAll("body *")].filter(shown).map(describe);
  const badges = [...document.querySelectorAll(".run")].map((each) => {
    const style = getComputedStyle(each, "::before");
    return [`badge ${each.dataset.submodel}`, [...behind(each), style.backgroundColor], style.color];
  });
  return [...text, ...badges].map(([name, under, ink]) => {
    return [name, ratio(light(paint(under)), light(paint([...under, ink])))];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(page: Page, script: Script, scheme: Literal["light", "dark"]) -> None:
    """The ratio of WCAG 2.1, level AA: 4.5 for text of every size; the badges, bold letters, have at least 3."""
    script.chunks[1:1] = [piece(" so", "M", 1, 11.0), piece(" it", "L", 1, 12.0), piece(" is", "XL", 1, 12.0)]
    page.emulate_media(color_scheme=scheme)
    page.get_by_label("Budget in milliseconds").fill("60")
    send(page)
    ratios = page.evaluate(CONTRAST)
    assert len(ratios) > 25
    assert not [each for each in ratios if each[1] < (3 if each[0].startswith("badge") else 4.5)]
    assert (colour(page.locator("body")) == "rgb(19, 18, 24)") == (scheme == "dark")
    script.refusals.append(refusal(429, "no submodel meets the budget"))
    send(page)
    (error,) = [ratio for name, ratio in page.evaluate(CONTRAST) if name == "no submodel meets the budget"]
    assert error >= 4.5


@pytest.mark.parametrize("width", [360, 700, 1000])
def test_nothing_sticks_out_on_a_narrow_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    send(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_each_precision_is_a_group_of_names_and_a_mark_on_the_chart(browser: Browser, stage: Stage) -> None:
    losses = LOSS | {f"{name}@int8": loss + 0.002 for name, loss in LOSS.items()} | {"XL@int4": 3.15, "S@int4": 3.46}
    menu = menu_of_granularities(CONFIG, losses, precisions=("int8", "int4"))
    with serving(toy_app(stage, menu)) as url:
        page = browser.new_page(viewport={"width": 360, "height": 800})
        page.goto(url)
        expect(page.locator("#model option")).to_have_count(9)
        groups = page.locator("#model optgroup").evaluate_all(
            "groups => groups.map((group) => [group.label, [...group.children].map((each) => each.value)])"
        )
        assert groups == [[at, [f"toy:{name}@{at}" for name in LOSS]] for at in ("int8", "int4")]
        assert page.locator("#model option").first.text_content() == "toy (the budget chooses)"
        assert page.get_by_label("Precisions").text_content() == "₈ int8, ₄ int4"
        assert page.locator("#frontier .point").count() == 8
        unmeasured = page.locator("#frontier .point.unmeasured")
        assert {each.get_attribute("data-submodel") for each in unmeasured.all()} == {"M@int4", "L@int4"}
        assert {"XL₈", "S₈"} <= set(page.locator("#frontier .name").all_text_contents())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.get_by_role("combobox", name="Model").select_option("toy:S@int4")
        expect_ring(page, "#preview", "S@int4")
        page.close()


# The real endpoint


@pytest.fixture(scope="module")
def real(service: Service) -> Iterator[str]:
    with serving(create_app(service, extra_routes=[playground_router(service)])) as url:
        yield url


def ready(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#model option")).not_to_have_count(0)
    page.get_by_label("Max tokens").fill("8")
    page.get_by_label("Temperature").fill("0")
    page.get_by_label("Prompt").fill("the nation")


def completion(page: Page, url: str, **fields: Any) -> dict[str, Any]:
    asked = {"model": "tiny", "prompt": "the nation", "max_tokens": 8, "temperature": 0} | fields
    answer = page.request.post(url.replace("/playground", "/v1/completions"), data=asked)
    body: dict[str, Any] = answer.json()
    return body


def test_the_page_shows_what_the_endpoint_writes_without_a_page(browser: Browser, real: str) -> None:
    page = browser.new_page()
    ready(page, real)
    assert page.locator("#frontier .point").count() == 4
    for model, name in (("tiny", "XL"), ("tiny:S", "S")):
        expected = completion(page, real, model=model)
        page.get_by_role("combobox", name="Model").select_option(model)
        send(page)
        expect(page.get_by_role("alert")).to_be_hidden()
        (run,) = page.locator("#answer .run").all()
        assert run.get_attribute("data-submodel") == name
        assert run.text_content() == expected["choices"][0]["text"]
        tokens = expected["usage"]["completion_tokens"]
        expect(page.locator("#legend")).to_contain_text(f"{tokens} token")
    page.close()


def test_a_generous_budget_is_kept_and_a_strict_one_out_of_reach_is_refused(browser: Browser, real: str) -> None:
    page = browser.new_page()
    ready(page, real)
    page.get_by_label("Budget in milliseconds").fill("60000")
    send(page)
    expect(page.locator("#slack-left")).to_contain_text("kept")
    page.get_by_label("Budget in milliseconds").fill("0.1")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Refuse").check()
    send(page)
    expect(page.get_by_role("alert")).to_contain_text("no submodel meets the budget")
    page.close()


def test_behind_keys_the_page_asks_for_one_and_then_works(browser: Browser, service: Service) -> None:
    keys = Keys((sha256(b"lts-secret").digest(),))
    with serving(create_app(service, keys=keys, extra_routes=[playground_router(service)])) as url:
        page = browser.new_page()
        page.goto(url)
        expect(page.get_by_role("alert")).to_contain_text("API key")
        expect(page.get_by_label("API key")).to_be_focused()
        page.get_by_label("API key").fill("lts-secret")
        page.keyboard.press("Tab")
        expect(page.locator("#model option")).to_have_count(5)
        page.get_by_label("Max tokens").fill("4")
        send(page)
        expect(page.locator("#answer .run")).not_to_have_count(0)
        page.close()
