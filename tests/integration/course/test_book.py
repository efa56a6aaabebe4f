"""The chapters and pages as a site: Sphinx reads what is committed with book/conf.py, and has nothing to warn of."""

import subprocess
import sys

from fake_course import CHECKOUT

from course.chapters import all_chapters


def build(source, target) -> subprocess.CompletedProcess[str]:
    options = ["-W", "--keep-going", "-q", "-b", "html", "-c", CHECKOUT / "book"]
    return subprocess.run([sys.executable, "-m", "sphinx", *options, source, target], capture_output=True, text=True)


def test_pages_build_without_a_warning(tmp_path):
    done = build(CHECKOUT, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for chapter in all_chapters():
        assert chapter.title in (tmp_path / "notebooks" / f"{chapter.name}.html").read_text(encoding="utf-8")


def test_bad_pages_cause_warnings(tmp_path):
    (tmp_path / "README.md").write_text("# A\n\n### B\n\n[B](nowhere.md) ![A picture](nowhere.svg)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode and all(part in done.stderr for part in ("Non-consecutive", "'nowhere.md'", "nowhere.svg"))
