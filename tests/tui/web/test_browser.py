"""The dashboard in headless Chromium: what viewers see, and what their keys do. Needs Chromium."""

import asyncio

import pytest

from tests.chromium import CHROMIUM, Chromium, colours
from tests.tui.web.test_serve import base_of, changes, live, serving, until_changed

__all__ = ["live", "serving"]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium")


async def test_chromium_shows_the_run_steers_nothing_and_loads_nothing_from_elsewhere(live, serving, tmp_path):
    url, _ = serving(live.directory)
    async with Chromium() as browser:
        await browser.open(url)
        await browser.see("tok/s now")
        assert "Throughput" in browser.text
        for key in ("+", "x", " "):
            await browser.press(key)
        await browser.press("2")
        await browser.see("as they came")
        await browser.press("1")
        await browser.see("tok/s")
        assert await browser.evaluate("document.body.classList.contains('-first-byte')")
        picture = await browser.picture()
        base = base_of(url)
        assert await browser.evaluate("window.location.href") == base, "the token is out of the address"
        assert await browser.evaluate("document.cookie") == ""
        assert await browser.evaluate("document.fonts.check('16px \"Roboto Mono\"')")
    outside = [asked for asked in browser.asked if not asked.startswith((base, base.replace("http", "ws"), "data:"))]
    assert not outside
    assert any("RobotoMono" in asked for asked in browser.asked), "the font came with the page"
    (tmp_path / "page.png").write_bytes(picture)
    pixels = colours(picture)
    drawn = sum(pixels.values()) - max(pixels.values())
    assert drawn > 0.03 * sum(pixels.values()), "the terminal is drawn, not only told"
    assert len(pixels) > 20
    assert changes(live.directory) == [4]


async def test_chromium_steers_the_run_if_viewers_may(live, serving):
    url, _ = serving(live.directory, "--control")
    async with Chromium() as browser:
        await browser.open(url)
        await browser.see("tok/s now")
        await browser.press("+")
        await until_changed(live.directory, [4, 8])


async def test_a_page_whose_view_has_ended_says_so(live, serving):
    url, _ = serving(live.directory)
    async with Chromium() as browser:
        await browser.open(url)
        await browser.see("tok/s now")
        await browser.press("q")
        for _ in range(100):
            if await browser.evaluate("getComputedStyle(document.querySelector('.closed')).display") == "flex":
                break
            await asyncio.sleep(0.05)
        else:
            raise AssertionError("the page looks as if the view went on")
        browser.screen.reset()
        await browser.evaluate("document.querySelector('.closed button').click()")
        await browser.see("tok/s now")


async def test_the_address_may_be_followed_from_another_sites_page(live, serving):
    url, _ = serving(live.directory)
    async with Chromium() as browser:
        await browser.open(f"data:text/html,<a href='{url}'>watch</a>")
        await asyncio.sleep(0.5)
        await browser.evaluate("document.querySelector('a').click()")
        await browser.see("tok/s now")
