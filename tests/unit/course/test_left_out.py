"""A setup of `install.py --without deep`: what a chapter and `course doctor` say there."""

import json
import sys

import pytest
from messages import assert_on_page

import course
from course import doctor, session
from course.errors import CourseError


@pytest.fixture
def without_deep(tmp_path, monkeypatch):
    (tmp_path / "course-left-out.json").write_text(json.dumps({"deep": ["gast", "keras", "tensorflow-cpu"]}))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))


def test_begin_names_the_package_and_the_fix(fake, without_deep):
    fake.chapter("04", "import pandas", "import keras\nfrom keras import layers")
    other = fake.chapter("01", "import pandas  # no keras", "import keras_hub")
    with fake.here():
        session._require_packages(other)  # it imports nothing of it, and passes
        with pytest.raises(CourseError) as refusal:
            course.begin("04")
    assert_on_page("which was left out of this installation", str(refusal.value))
    assert str(refusal.value).startswith("Chapter 04 needs keras, ") and "install.py --with deep`" in str(refusal.value)
    assert not (fake.state / "store").exists(), "nothing happened before the refusal"


def test_doctor_accepts_what_is_left_out_and_nothing_else(fake, without_deep, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", {"packages": doctor.packages})
    (fake.root / "requirements.lock").write_text("keras==0.1\ngast==0.1\n")
    with fake.here():
        assert doctor.examine()
        assert capsys.readouterr().out == (
            "[ ok ] packages\n[ ok ] without deep, as you chose: to add it, run `python install.py --with deep`\n"
        )
        (fake.root / "requirements.lock").write_text("keras==0.1\nno-such-thing==0.1\n")
        assert not doctor.examine()
    assert "[fail] packages: no-such-thing is missing" in capsys.readouterr().out
