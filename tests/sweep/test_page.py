"""The page of a sweep in a browser, opened from a file without any network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browser import browser
from sweep_stores import AXES, make_store

from accelsim.explore.store import Store
from accelsim.explore.stored import Stored, read_sweep
from accelsim.report.page import sweep_page

HOSTILE = "<img src=x onerror=window.hit=1></script><script>window.hit=1</script>&amp;"
OBJECTIVES = "min cycles, min energy"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[Stored, Path]:
    folder = tmp_path_factory.mktemp("page")
    axes = {"workload": [HOSTILE, "b"], **AXES}
    make_store(
        folder / "s.db", name=HOSTILE, title=HOSTILE, axes=axes, workload=HOSTILE, constraints=["cycles < 17000"]
    )
    with Store(folder / "s.db") as store:
        stored = read_sweep(store, None)
    path = folder / "sweep.html"
    path.write_text(sweep_page(stored, stored.objectives(OBJECTIVES)), encoding="utf-8")
    return stored, path


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile"), viewport={"width": 1280, "height": 900}, offline=True) as opened:
        yield opened


@pytest.fixture
def page(context, sweep):
    """The page, opened; whatever the browser complains of fails the test."""
    _, path = sweep
    opened, complaints, asked = context.new_page(), [], []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(path.as_uri())
    yield opened
    assert complaints == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
    assert opened.evaluate("window.hit") is None
    opened.close()


def facts(page) -> dict[str, str]:
    """What is shown of the chosen point."""
    names, values = page.locator("#facts dt").all_text_contents(), page.locator("#facts dd").all_text_contents()
    return dict(zip(names, values, strict=True))


def column(page, number: int) -> list[str]:
    return page.locator(f"#body tr td:nth-child({number + 1})").all_text_contents()


def test_a_click_on_a_point_of_the_front_shows_its_configuration_and_figures(page, sweep):
    stored, _ = sweep
    front = {row.position for row in stored.front(stored.objectives(OBJECTIVES))}
    marked = page.locator("#plot circle.front")
    assert {int(circle.get_attribute("data-point")) for circle in marked.all()} == front
    marked.last.click()
    position = int(re.match(r"Point (\d+): done, on the front$", page.locator("#chosen").text_content())[1])
    assert position in front
    row, shown = stored.rows[position], facts(page)
    for key, value in row.setting.items():
        assert shown[key] == (f"{value:,}" if isinstance(value, int) else value)
    assert shown["cycles"] == f"{row.figures['cycles']:,}"
    assert float(shown["energy (pJ)"].replace(",", "")) == row.figures["energy"]
    hardware = stored.inputs[row.key]["hardware"]
    assert shown["hardware.array.dataflow"] == hardware["array"]["dataflow"]  # on which all points agree
    assert shown["hardware.weight.memory_bytes"] == f"{hardware['weight']['memory_bytes']:,}"


def test_points_at_one_place_are_taken_in_turn(page, sweep):
    stored, _ = sweep
    circle = page.locator("#plot circle.front").last  # two workloads with the same figures
    circle.click()
    first = page.locator("#chosen").text_content()
    circle.click()
    second = page.locator("#chosen").text_content()
    assert first != second
    one, other = (stored.rows[int(re.search(r"\d+", text)[0])] for text in (first, second))
    assert one.figures == other.figures


def test_other_objectives_give_another_front(page, sweep):
    stored, _ = sweep
    page.select_option("#x", "max accuracy")
    page.select_option("#y", "max cycles")
    page.select_option("#z", "min energy")
    asked = stored.objectives("max accuracy, max cycles, min energy")
    drawn = {int(circle.get_attribute("data-point")) for circle in page.locator("#plot circle.front").all()}
    assert drawn == {row.position for row in stored.front(asked)}
    page.select_option("#colour", "workload")
    assert HOSTILE in page.locator("#legend").text_content()
    assert page.locator("#plot circle.infeasible").count() == sum(row.status == "infeasible" for row in stored.rows) > 0
    page.uncheck("#infeasible")
    assert page.locator("#plot circle.infeasible").count() == 0


def test_the_table_sorts_by_numbers_both_ways_and_filters(page, sweep):
    stored, _ = sweep
    heads = page.locator("#head th").all_text_contents()
    place = heads.index("cycles")
    everything = sorted(row.figures["cycles"] for row in stored.rows)
    button = page.locator("#head button[title=cycles]")
    for expected, said in ((everything, "ascending"), (everything[::-1], "descending")):
        button.click()
        assert [int(text.replace(",", "")) for text in column(page, place)] == expected
        assert page.locator("#head th[aria-sort]").get_attribute("aria-sort") == said
    page.fill("#filter", "cycles<=5,000")
    assert [int(text.replace(",", "")) for text in column(page, place)] == [n for n in everything[::-1] if n <= 5000]
    page.fill("#filter", "infeasible")
    assert set(column(page, heads.index("status"))) == {"infeasible"}
    page.fill("#filter", "array.rows = 8")
    assert set(column(page, heads.index("array.rows"))) == {"8"}
    page.fill("#filter", "")
    page.check("#only")
    assert len(column(page, 0)) == page.locator("#plot circle.front").count()
    page.locator("#body tr").first.click()
    assert page.locator("#chosen").text_content().endswith("on the front")


def test_hostile_names_are_text(page):
    assert page.locator("#name").text_content() == HOSTILE
    assert HOSTILE in page.locator("#about").text_content()
    assert HOSTILE in column(page, 2)
    page.fill("#filter", "<img")
    page.locator("#body tr").first.click()
    assert facts(page)["workload"] == HOSTILE
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate("window.hit") is None


def test_the_keyboard_reaches_points_and_table(page):
    page.locator("#infeasible").focus()
    page.keyboard.press("Tab")
    focused = "document.activeElement.getAttribute('data-point')"
    first = page.evaluate(focused)
    assert first is not None
    page.keyboard.press("End")
    assert page.evaluate(focused) != first
    page.keyboard.press("ArrowLeft")
    point = page.evaluate(focused)
    page.keyboard.press("Enter")
    assert page.locator("#chosen").text_content().startswith(f"Point {point}:")
    page.locator("#body button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("#chosen").text_content().startswith("Point 0:")


def test_a_phone_scrolls_only_downwards_and_dark_is_dark(page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator("#plot circle.front").last.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    page.click("#theme")
    assert page.evaluate(colour) == "rgb(22, 24, 27)"
    page.set_viewport_size({"width": 1280, "height": 900})
