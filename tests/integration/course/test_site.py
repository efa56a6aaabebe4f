"""`make site`: Sphinx reads what is committed and has nothing to warn of, and the pages work in a browser, offline."""

import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from chromium import browser
from fake_course import CHECKOUT
from playwright.sync_api import expect

from course.chapters import all_chapters
from course.navigation import contents

pytestmark = pytest.mark.xdist_group("site")

__all__ = ["browser"]  # a fixture
LOOK = """() => ({
    ids: [...document.querySelectorAll("[id]")].map(each => each.id),
    links: [...document.links].map(each => each.href),
    broken: [...document.images].filter(each => !each.naturalWidth).map(each => each.src),
    sideways: document.documentElement.scrollWidth > innerWidth,
})"""


def build(source, target) -> subprocess.CompletedProcess[str]:
    options = ["-W", "--keep-going", "-q", "-c", CHECKOUT / "book"]
    return subprocess.run([sys.executable, "-m", "sphinx", *options, source, target], capture_output=True, text=True)


class Quiet(SimpleHTTPRequestHandler):
    log_message = staticmethod(lambda *_: None)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and the address where it is served."""
    folder = tmp_path_factory.mktemp("built") / "site"
    done = build(CHECKOUT, folder)
    assert (done.returncode, done.stderr) == (0, "")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_every_page_loads_without_errors_and_its_links_lead_somewhere(site, browser):
    folder, address = site
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.html")} - {"index.html"}
    pages = {address + name for name in names if not name.startswith("_")}
    problems, seen = [], {}
    with browser.new_page(viewport={"width": 420, "height": 800}) as page:  # a telephone
        page.on("console", lambda each: each.type in ("error", "warning") and problems.append(each.text))
        page.on("pageerror", lambda each: problems.append(str(each)))
        page.on("request", lambda each: each.url.startswith((address, "data:")) or problems.append(each.url))
        page.on("response", lambda each: each.status < 400 or problems.append(f"{each.status} {each.url}"))
        for name in pages:
            page.goto(name)
            seen[name] = page.evaluate(LOOK)
            problems += [f"{name}: no picture {each}" for each in seen[name]["broken"]]
            problems += [f"{name}: scrolls sideways"] * seen[name]["sideways"]
    for name, look in seen.items():
        for link in {link for link in look["links"] if link.startswith(address)}:
            target, _, anchor = link.partition("#")
            exists = (folder / target.removeprefix(address)).exists()
            if not exists or (anchor and target in seen and anchor not in seen[target]["ids"]):
                problems.append(f"{name}: no {link}")
    assert {f"{address}notebooks/{chapter.name}.html" for chapter in all_chapters()} < pages
    assert problems == []


def test_reader_navigates_searches_and_switches_to_dark_mode(site, browser):
    first, second = all_chapters()[:2]
    with browser.new_page() as page:
        page.goto(site[1])
        sidebar = page.locator("#pst-primary-sidebar")
        expect(sidebar).to_be_visible()
        titles = sidebar.locator(".caption-text").all_text_contents()
        parts = [f"{number} {part['title']}" for number, part in enumerate(contents()["part"], 1)]
        assert [title for title in titles if title in parts] == parts
        sidebar.get_by_role("link", name=first.title).click()
        page.get_by_title("next page").click()
        expect(page.locator("article h1")).to_contain_text(second.title)
        page.get_by_title("previous page").click()
        expect(page.locator("article h1")).to_contain_text(first.title)
        page.get_by_role("button", name="Color mode").click()
        page.get_by_role("button", name="Dark").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.locator(".search-button-field").click()
        page.get_by_role("searchbox").press_sequentially("alias")
        expect(page.locator("#search-results a[href*='glossary']").first).to_be_visible()


def test_bad_pages_cause_warnings(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").write_text("# A\n\n### B\n\n[B](nowhere.md) ![A picture](nowhere.svg)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode and all(part in done.stderr for part in ("Non-consecutive", "'nowhere.md'", "nowhere.svg"))
