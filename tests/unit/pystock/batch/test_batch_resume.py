"""The output of a batch job on disk: the old one or the new one, whole, whatever step fails."""

import contextlib
import json
import os
from pathlib import Path

import pytest
from messages import assert_on_page

from pystock.batch import resume
from pystock.batch.resume import SUCCESS, Output
from pystock.batch.rows import BatchError, InputError

OLD = {"a.csv": "old a", "year=1/b.csv": "old b", "year=2/c.csv": "old c"}
NEW = {"a.csv": "new a", "year=1/b.csv": "new b", "year=3/d.csv": "new d"}


def prepare(output: Output, texts: dict[str, str], bad: str = "") -> dict:
    """New files as a job makes them; returns their manifest."""
    for name, text in texts.items() | ({(resume.QUARANTINE, bad)} if bad else set()):
        path = output.new / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"files": list(texts), "quarantined": int(bool(bad)), "texts": texts}


def held(output: Output) -> dict[str, str]:
    """The data files of an output folder."""
    known = (SUCCESS, resume.MANIFEST, resume.QUARANTINE)
    files = {file.relative_to(output.path).as_posix(): file for file in output.path.rglob("*") if file.is_file()}
    return {name: file.read_text() for name, file in files.items() if name not in known}


class Crash(BaseException):
    pass


def crash_at(step, patch):
    """Let the call of that number fail, of all that change the disk; returns a function that counts them."""
    calls = 0

    def counted(call):
        def stopping(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == step:
                raise Crash
            return call(*arguments, **options)

        return stopping

    for owner, name in ((os, "replace"), (os, "fsync"), (Path, "touch")):
        patch.setattr(owner, name, counted(getattr(owner, name)))
    return lambda: calls


@pytest.mark.parametrize("first", [True, False])
def test_a_folder_is_the_old_one_or_the_new_one_wherever_a_commit_stops(tmp_path, first):
    step, finished, seen = 0, False, set()
    while not finished:
        step += 1
        output = Output(tmp_path / str(step), folder=True)
        if not first:
            resume.commit(output, prepare(output, OLD, "line\n"))
            resume.remove(output)
        manifest = prepare(output, NEW)
        with pytest.MonkeyPatch.context() as patch:
            count = crash_at(step, patch)
            with contextlib.suppress(Crash):
                resume.commit(output, manifest)
            finished = count() < step
        seen.add(held(output).get("a.csv", "nothing"))
        with contextlib.suppress(BatchError), resume.locked(output):  # the next job puts the folder back
            raise InputError("also where its input is to blame")
        if output.path.exists():
            texts = json.loads(output.manifest.read_text())["texts"]
            assert held(output) == texts and (output.path / SUCCESS).exists()
            assert output.quarantine.exists() == (texts == OLD)
        else:
            assert first
        resume.commit(output, prepare(output, NEW))
        assert held(output) == NEW and not (output.path / "year=2").exists()
    assert seen == ({"nothing", "new a"} if first else {"old a", "nothing", "new a"})


def test_a_folder_with_files_of_others_is_refused(tmp_path):
    output = Output(tmp_path / "out", folder=True)
    resume.commit(output, prepare(output, OLD))
    (output.path / "thesis.tex").touch()
    with pytest.raises(BatchError, match="contains 'thesis.tex', which no batch job wrote"):
        resume.commit(output, prepare(output, NEW))
    assert held(output) == OLD | {"thesis.tex": ""}


def test_an_error_of_the_disk_is_one_sentence_and_finished_chunks_stay(tmp_path):
    output = Output(tmp_path / "out.csv", folder=False)
    output.new.mkdir(parents=True)
    (output.partial / "000000-00000000.arrow").touch()
    message = r"out.csv cannot be written \(Permission denied\), so it is unchanged: free some space"
    with pytest.raises(BatchError, match=message), resume.locked(output):
        raise PermissionError(13, "Permission denied")
    assert not output.new.exists() and output.chunks()
    with pytest.raises(InputError, match="is to blame"), resume.locked(output):
        raise InputError("the input is to blame")
    assert not output.partial.exists()


def test_a_second_job_on_one_output_is_refused_and_told_who_is_first(tmp_path):
    output = Output(tmp_path / "out.csv", folder=False)
    with resume.locked(output):
        with pytest.raises(BatchError, match="another batch job is writing .*out.csv .another process") as caught:
            resume.locked(output).__enter__()
        assert_on_page("another batch job is writing", str(caught.value))
        resume.begin(output, {"version": 1}, None)
        with pytest.raises(BatchError, match=rf"\(process {os.getpid()}, since 20"):
            resume.locked(output).__enter__()
    with resume.locked(output):
        pass
