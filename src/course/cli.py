"""The command `course`: everything behind make, also without make."""

import ast
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import click

from course.chapters import select
from course.errors import CourseError
from course.paths import refuse_another_checkout

# nbformat imports jsonschema, which imports rfc3987_syntax if it is installed. That compiles a grammar of international
# web addresses, for a check that no notebook needs: 5.3 of the 5.9 s that `import nbformat` took here.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None marks a missing module

FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
BROWSER = click.option("--browser/--no-browser", default=True, help="Open a browser window.")
STORE = click.option("--store", "name", default="", help="The store of another parameter, such as nasdaq.")


def _existing(name: str) -> str:
    """Return the name of a store. Raises CourseError if it is an embedded one that does not exist."""
    from course import store

    if name and store.in_use(name=name) == store.uri(folder := store.folder(name)) and not folder.exists():
        raise CourseError(f"There is no store {name} yet: a chapter makes it, as in `course run 01 -p market=nasdaq`.")
    return name


class _Commands(click.Group):
    """A command group that shows a CourseError as one sentence."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except CourseError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:  # a full disk, another user's folder
            raise click.ClickException(f"{error}: run `course doctor` to find out why.") from None


def _course() -> str:
    """Return how to type this command in the same terminal: its path, unless it is on PATH."""
    program = Path(sys.executable).with_name("course")
    if shutil.which("course") == str(program):
        return "course"
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)


COURSE = _course()  # now: `settle` puts this environment first on the PATH of what the course starts


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """From idea to production with MLflow: run the course."""
    refuse_another_checkout()
    from course.environment import settle

    if note := settle():
        click.echo(note, err=True)


@main.command()
@click.argument("chapters", required=False)
@click.option("-p", "--parameter", "pairs", multiple=True, metavar="NAME=VALUE", help="Set a parameter; repeatable.")
@click.option("--tracking-uri", help="http://… or sqlite:///…; default: COURSE_TRACKING_URI or embedded store.")
@click.option("--timeout", default=600.0, show_default=True, type=click.FloatRange(1), help="Seconds a cell may take.")
@click.option("--showcase", is_flag=True, help="Run into a separate, empty store. Your own runs are not touched.")
def run(chapters: str | None, pairs: tuple[str, ...], tracking_uri: str | None, timeout: float, showcase: bool) -> None:
    """Run CHAPTERS, such as 02 or 02-05; without CHAPTERS, all of them."""
    from course import execute, store

    values: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise CourseError(f"The parameter {pair} has no value: write it as market=nasdaq.")
        values[name] = value
        with suppress(ValueError, SyntaxError):
            values[name] = ast.literal_eval(value)  # a number, True, None
    given = tracking_uri or values.pop("tracking_uri", None)
    if showcase and given:
        raise CourseError("The showcase has a store of its own: omit --tracking-uri or --showcase.")
    uri = store.in_use(str(given or ""))
    if uri != store.without_password(uri):  # the executed copy shows a parameter
        os.environ["COURSE_TRACKING_URI"] = uri
    elif given:
        values["tracking_uri"] = uri
    results = (execute.run_showcase if showcase else execute.run)(select(chapters), values, timeout)
    if any(result.failure for result in results):
        sys.exit(1)
    embedded = showcase or uri == store.uri(store.folder())
    name = select(chapters)[0].apart(values) if embedded else ""
    options = f"{' --showcase' if showcase else ''}{f' --store {name}' if name else ''}"
    print(f"\nTo see the runs in the MLflow UI: {COURSE} ui{options}")


@main.command()
@BROWSER
def lab(browser: bool) -> None:
    """Open the notebooks in JupyterLab, and the MLflow UI next to it."""
    from course import lab

    lab.lab(browser)


@main.command()
@BROWSER
@click.option("--showcase", is_flag=True, help="Show the runs of `make course` instead of yours.")
@STORE
def ui(browser: bool, showcase: bool, name: str) -> None:
    """Open the MLflow UI on your runs."""
    from course import execute, lab, paths

    if showcase and not paths.showcase().exists():
        raise CourseError("There is no showcase yet: `make course` makes it, and so does `course run --showcase`.")
    with execute.state_folder(paths.showcase()) if showcase else nullcontext():
        lab.ui(browser, _existing(name))


@main.command()
@click.argument("exercise")
def solution(exercise: str) -> None:
    """Print the solution of EXERCISE, such as 04.2."""
    from course import copies

    print(copies.solution(exercise))


@main.command()
@click.argument("chapter")
def check(chapter: str) -> None:
    """List the exercises of CHAPTER, and whether your last answers pass."""
    from course import checks

    (one,) = select(chapter)[:1]
    sys.exit(0 if checks.check_kept(one.number) else 1)


@main.command()
@BROWSER
@click.option("--auth", is_flag=True, help="Turn MLflow's authentication on.")
def workbench(browser: bool, auth: bool) -> None:
    """Start PostgreSQL, the MLflow server and JupyterLab together."""
    from course.workbench.local import workbench

    workbench(browser, auth)


@main.command(add_help_option=False, context_settings=PASS_ON)
@STORE
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def mlflow(name: str, arguments: tuple[str, ...]) -> None:
    """Run MLflow's own command on the current store."""
    from course.session import choose_store

    chapters = os.environ.get("MLFLOW_TRACKING_URI") if "COURSE_SESSION" in os.environ else None  # in its cell
    uri = choose_store(None if name else chapters, _existing(name))
    if uri.startswith("sqlite:"):
        os.environ.setdefault("MLFLOW_BACKEND_STORE_URI", uri)  # `course mlflow server` shows the current store
    command = [sys.executable, "-P", "-m", "mlflow", *arguments]
    if os.name == "nt":
        sys.exit(subprocess.run(command).returncode)
    sys.stdout.flush()
    os.execv(command[0], command)  # so that a signal reaches MLflow itself


@main.command()
@click.argument("chapter", required=False)
@click.option("--store", is_flag=True, help="Move the embedded store aside, and start with an empty one.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def reset(chapter: str | None, store: bool, yes: bool) -> None:
    """Replace your notebook of CHAPTER in work/ with a fresh copy, keeping yours; or, with --store, the store."""
    from course import checkpoints, copies
    from course.store import folders

    if store == bool(chapter):
        choices = "a chapter's notebook, as in `course reset 02`, or the store with --store"
        raise CourseError(f"Choose what to reset: {choices}.")
    if store:
        yes or click.confirm("Move the embedded store aside and start with an empty one?", abort=True)
        kept_as = [f"Your store is kept as {checkpoints.set_aside(folder)}." for folder in folders()]
        print(*kept_as or ["There is no store yet: nothing to reset."], sep="\n")
    for one in select(chapter) if chapter else []:
        kept = copies.renew(one)
        yours = f" Yours is kept as {kept.name}." if kept else ""
        print(f"work/{one.working_copy.name} is now a fresh copy.{yours}")


@main.command()
@click.argument("chapter")
@click.option("--force", is_flag=True, help="If the store has runs, move it to another folder first.")
def checkpoint(chapter: str, force: bool) -> None:
    """Start CHAPTER as if you had finished all chapters before it."""
    from course import checkpoints, store

    target, *more = select(chapter)
    if more:
        raise CourseError(f"A checkpoint belongs to one chapter, not to {chapter}: name the chapter you want to start.")
    if store.in_use().startswith("http"):
        results = checkpoints.on_server(target)
        if any(result.failure for result in results):
            sys.exit(1)
        seconds = sum(result.seconds for result in results)
        print(f"The server is ready for chapter {target.number}. This took {seconds:.0f} s.")
        return
    if kept := checkpoints.restore(target, force):
        print(f"The previous store is kept as {kept}.")
    print(f"The embedded store is ready for chapter {target.number}.")


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--docker", is_flag=True, help="Back up the workbench in containers.")
def backup(file: Path, docker: bool) -> None:
    """Back up the workbench to FILE: runs, models, artifacts and accounts."""
    from course.workbench import backup

    print(f"{file} holds {backup.backup(file, docker=docker)}.")


@main.command()
@FILE
@click.option("--docker", is_flag=True, help="Restore into the workbench in containers.")
@click.option("--force", is_flag=True, help="Move an existing workbench aside first.")
def restore(file: Path, docker: bool, force: bool) -> None:
    """Restore the workbench from the backup FILE."""
    from course.workbench import backup

    print(f"Restored the workbench from {file}: {backup.restore(file, docker=docker, force=force)}.")


@main.command()
@FILE
def learners(file: Path) -> None:
    """Create a workspace for each name in FILE on the current server, and an account if the server has accounts."""
    from course.workbench import learners

    learners.learners(file)


@main.command()
def doctor() -> None:
    """Find out what keeps the course from running on this machine."""
    from course.doctor import examine

    sys.exit(0 if examine() else 1)


@main.command()
@click.argument("chapters", required=False)
def notebooks(chapters: str | None) -> None:
    """Regenerate notebooks/ from chapters/ (for authors)."""
    from course.notebooks import build

    build(select(chapters))


@main.command()
def navigation() -> None:
    """Renew the maps and tables that are made from chapters/contents.toml (for authors)."""
    from course import navigation

    for path, text in navigation.outdated().items():
        path.write_text(text, encoding="utf-8", newline="\n")
        print(f"{path.name} is updated.")


@main.command()
@click.argument("chapters", required=False)
def lint(chapters: str | None) -> None:
    """Check the rules for authors in CHAPTERS, such as 02 or 02-05; without CHAPTERS, on all pages."""
    from course.lint import lint

    selected = select(chapters)
    problems = list(lint(selected))
    if problems:
        print(*problems, sep="\n")
        sys.exit(1)
    print("1 chapter keeps all rules." if len(selected) == 1 else f"{len(selected)} chapters keep all rules.")


@main.command()
@click.argument("name", required=False)
def record(name: str | None) -> None:
    """Renew the record NAME, or all in chapters/records/, by running its tests (for authors)."""
    from course import record

    for one in [name] if name else record.TESTS:
        print(f"{record.renew(one).name} is updated.")
