"""The learner's copies in work/, and `course ui` on a server."""

from course import lab


def test_missing_notebooks_are_copied_to_work_and_others_stay(fake):
    fake.chapter("01", "x = 1")
    fake.chapter("02", "x = 1")
    with fake.here():
        assert lab.copy_notebooks() == ["01_step", "02_step"]
        (fake.root / "work" / "01_step.ipynb").write_text("mine")
        (fake.root / "work" / "02_step.ipynb").unlink()
        assert lab.copy_notebooks() == ["02_step"]
        assert (fake.root / "work" / "01_step.ipynb").read_text() == "mine"


def test_ui_of_a_server_in_use_is_its_own(fake):
    done = fake.invoke("ui", COURSE_TRACKING_URI="http://127.0.0.1:9")
    assert done.stdout == "The store in use is a server, and shows itself: http://127.0.0.1:9\n"
