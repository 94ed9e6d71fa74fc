"""The page in a real browser, by keyboard, on a screen as wide as a phone."""

import pytest

from .browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
ENTER, ESCAPE, RIGHT = ("Enter", 13), ("Escape", 27), ("ArrowRight", 39)


def _set(browser, element, value):
    browser.evaluate(f"document.getElementById('{element}').value = {value!r}")


def _focus(browser, element):
    browser.evaluate(f"document.getElementById('{element}').focus()")


def test_one_can_chat_stop_and_complete_by_keyboard(server):
    with Browser() as browser:
        browser.open(server.url)
        browser.wait("document.getElementById('name').textContent === 'small'")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 360

        _set(browser, "max-tokens", "12")
        _focus(browser, "message")
        browser.type("How large is a whale?")
        browser.press(*ENTER)
        browser.wait("document.getElementById('status').textContent.includes(' tokens in ')")
        assert browser.evaluate("document.querySelector('#messages .user').textContent") == (
            "How large is a whale?"
        )
        assert browser.evaluate("document.getElementById('message').value") == ""
        assert browser.evaluate("document.activeElement.id") == "message"

        _set(browser, "max-tokens", "3000")
        cancelled = server.metric("requests_cancelled_total")
        browser.evaluate("document.getElementById('tab-chat').focus()")
        browser.press(*RIGHT)
        assert browser.evaluate("document.activeElement.id") == "tab-complete"
        assert browser.evaluate("document.getElementById('chat').hidden")
        _focus(browser, "text")
        before = browser.evaluate("document.getElementById('text').value.length")
        browser.press(*ENTER, control=True)
        browser.wait(f"document.getElementById('text').value.length > {before} + 20")
        browser.press(*ESCAPE)
        browser.wait("document.getElementById('status').textContent === 'Stopped.'")
        server.wait_until("requests_cancelled_total", cancelled + 1)
        server.wait_until("sequences_running", 0)

        outside = [url for url in browser.requests if not url.startswith((server.url, "data:"))]
        assert outside == ["about:blank"] or outside == []


def test_errors_are_said_and_what_was_typed_is_not_lost(server):
    with Browser() as browser:
        browser.open(server.url)
        _set(browser, "max-tokens", "99999")
        _focus(browser, "message")
        browser.type("hello")
        browser.press(*ENTER)
        browser.wait("document.getElementById('status').textContent.includes('at most 4096')")
        assert browser.evaluate("document.getElementById('message').value") == "hello"
        assert browser.evaluate("document.querySelectorAll('#messages li').length") == 0


def test_a_key_opens_a_guarded_server(guarded):
    from .conftest import KEY

    with Browser() as browser:
        browser.open(guarded.url)
        _set(browser, "max-tokens", "4")
        _focus(browser, "message")
        browser.type("hello")
        browser.press(*ENTER)
        browser.wait("document.getElementById('status').textContent.includes('API key')")
        _set(browser, "key", KEY)
        _focus(browser, "message")
        browser.press(*ENTER)
        browser.wait("document.getElementById('status').textContent.includes(' tokens in ')")
