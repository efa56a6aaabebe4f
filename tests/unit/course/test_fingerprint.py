"""The fingerprint of chapters: it sees everything that a chapter runs, and nothing that a run leaves behind."""

import pytest

from course.execute import fingerprint


@pytest.mark.parametrize(("path", "counts"), [
    ("src/pystock/api/schema.py", True),
    ("src/course/workbench/supervisord.conf", True),
    ("projects/pystock-training/conf/defaults.yaml", True),
    ("data/prices.csv", True),
    ("requirements.lock", True),
    ("chapters/checks/01.py", True),
    ("chapters/01_step.md", True),
    ("chapters/02_step.md", False),
    ("src/pystock/api/__pycache__/schema.cpython-311.pyc", False),
    ("projects/pystock-data-features/stages/sp500/raw/manifest.json", False),
    ("README.md", False),
])  # fmt: skip
def test_fingerprint_sees_what_a_chapter_runs(fake, path, counts):
    chapter = fake.chapter("01", "x = 1", built=False)
    fake.chapter("02", "x = 1", built=False)
    file = fake.root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    with fake.here():
        before = fingerprint(chapter)
        file.write_bytes((file.read_bytes() if file.exists() else b"") + b"\nchanged")
        assert (fingerprint(chapter) != before) == counts
        if path.startswith("src/"):  # where it is counts, too
            before = fingerprint(chapter)
            file.rename(file.with_stem("moved"))
            assert (fingerprint(chapter) != before) == counts
