"""The command `course`: everything behind make, also without make."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import click

from course.chapters import select
from course.errors import CourseError

# nbformat imports jsonschema, which imports rfc3987_syntax if it is installed. That compiles a grammar of international
# web addresses, for a check that no notebook needs: 5.3 of the 5.9 s that `import nbformat` took here.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]  # None stands for a missing module


class _Commands(click.Group):
    """Shows a CourseError as one sentence."""

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except CourseError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:  # a full disk, another user's folder
            raise click.ClickException(f"{error}: `course doctor` looks for what stops the course here.") from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """From idea to production with MLflow: run the course."""
    from course.environment import settle

    if note := settle():
        click.echo(note, err=True)


@main.command()
@click.argument("chapters", required=False)
@click.option("-p", "--parameter", "pairs", multiple=True, metavar="NAME=VALUE", help="A parameter, repeatable.")
@click.option("--tracking-uri", help="http://… or sqlite:///…; else COURSE_TRACKING_URI or the embedded store.")
@click.option("--timeout", default=600.0, show_default=True, type=click.FloatRange(1), help="Seconds a cell may take.")
def run(chapters: str | None, pairs: tuple[str, ...], tracking_uri: str | None, timeout: float) -> None:
    """Run CHAPTERS from top to bottom: 02, 02-05, or all."""
    from course import execute

    values: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise CourseError(f"The parameter {pair} has no value: write it as market=nasdaq.")
        try:
            values[name] = ast.literal_eval(value)  # a number, True, None
        except (ValueError, SyntaxError):
            values[name] = value
    if tracking_uri:
        if tracking_uri.startswith("sqlite:///"):  # relative to here, not to notebooks/
            tracking_uri = f"sqlite:///{Path(tracking_uri[10:]).resolve().as_posix()}"
        values["tracking_uri"] = tracking_uri
    results = execute.run(select(chapters), values, timeout)
    if any(result.failure for result in results):
        sys.exit(1)
    print("\nTo see the runs in the MLflow UI: make ui, or `course ui` in the activated environment")


@main.command()
@click.option("--browser/--no-browser", default=True, help="Open a browser window.")
def lab(browser: bool) -> None:
    """Open the notebooks in JupyterLab, and the MLflow UI next to it."""
    from course import lab

    lab.lab(browser)


@main.command()
@click.option("--browser/--no-browser", default=True, help="Open a browser window.")
def ui(browser: bool) -> None:
    """Open the MLflow UI on the store in use."""
    from course import lab

    lab.ui(browser)


@main.command()
@click.option("--browser/--no-browser", default=True, help="Open a browser window.")
@click.option("--auth", is_flag=True, help="Turn MLflow's authentication on.")
def workbench(browser: bool, auth: bool) -> None:
    """Start PostgreSQL, the MLflow server and JupyterLab together."""
    from course.workbench.local import workbench

    workbench(browser, auth)


@main.command(
    add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def mlflow(arguments: tuple[str, ...]) -> None:
    """MLflow's own command, on the store in use."""
    from course.session import choose_store

    uri = choose_store(None)
    if uri.startswith("sqlite:"):
        os.environ.setdefault("MLFLOW_BACKEND_STORE_URI", uri)  # `course mlflow server` shows the store in use
    command = [sys.executable, "-P", "-m", "mlflow", *arguments]
    if os.name == "nt":
        sys.exit(subprocess.run(command).returncode)
    sys.stdout.flush()
    os.execv(command[0], command)  # so that a signal reaches MLflow itself


@main.command()
@click.argument("chapter", required=False)
@click.option(
    "--store", "whole_store", is_flag=True, help="Move the embedded store aside, and start with an empty one."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(chapter: str | None, whole_store: bool, yes: bool) -> None:
    """Renew the notebook of CHAPTER in work/, keeping yours; or the store with --store."""
    from course import checkpoints, lab

    if whole_store == bool(chapter):
        raise CourseError(
            "Say what to reset: a chapter's notebook, as in `course reset 02`, or the store with --store."
        )
    if whole_store:
        yes or click.confirm("Move the embedded store aside and start with an empty one?", abort=True)
        kept = checkpoints.set_aside()
        print(f"Your store is kept as {kept}." if kept else "There is no store yet: nothing to reset.")
        return
    for one in select(chapter):
        kept = lab.renew_notebook(one)
        print(
            f"work/{one.working_copy.name} is the course's again." + (f" Yours is kept as {kept.name}." if kept else "")
        )


@main.command()
@click.argument("chapter")
@click.option("--force", is_flag=True, help="Move a store that holds runs aside first.")
def checkpoint(chapter: str, force: bool) -> None:
    """Start CHAPTER as if you had finished all chapters before it."""
    from course import checkpoints

    target, *more = select(chapter)
    if more:
        raise CourseError(f"A checkpoint is of one chapter, not of {chapter}: name the chapter that you want to start.")
    if os.environ.get("COURSE_TRACKING_URI", "").startswith("http"):
        results = checkpoints.on_server(target)
        if any(result.failure for result in results):
            sys.exit(1)
        seconds = sum(result.seconds for result in results)
        print(f"The server is as it is before chapter {target.number}: that took {seconds:.0f} s.")
        return
    kept = checkpoints.restore(target, force)
    if kept:
        print(f"The store that was there is kept as {kept}.")
    print(f"The embedded store is as it is before chapter {target.number}.")


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--docker", is_flag=True, help="Of the workbench in containers.")
def backup(file: Path, docker: bool) -> None:
    """Write all that the workbench holds into FILE: runs, models, artifacts and accounts."""
    from course.workbench import backup

    print(f"{file} holds {backup.backup(file, docker=docker)}.")


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--docker", is_flag=True, help="Into the workbench in containers.")
@click.option("--force", is_flag=True, help="Keep a workbench that is there aside first.")
def restore(file: Path, docker: bool, force: bool) -> None:
    """Put the workbench of a backup FILE in place."""
    from course.workbench import backup

    print(f"The workbench holds what {file} does: {backup.restore(file, docker=docker, force=force)}.")


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def learners(file: Path) -> None:
    """Make a workspace, and an account where there are accounts, for each name in FILE on the server in use."""
    from course.workbench import learners

    learners.learners(file)


@main.command()
def doctor() -> None:
    """Look for what stops the course from running on this machine."""
    from course.doctor import examine

    sys.exit(0 if examine() else 1)


@main.command()
@click.argument("chapters", required=False)
def notebooks(chapters: str | None) -> None:
    """Regenerate notebooks/ from chapters/ (for authors)."""
    from course.notebooks import build

    build(select(chapters))


@main.command()
@click.argument("chapters", required=False)
def lint(chapters: str | None) -> None:
    """Check the rules for authors in CHAPTERS: 02, 02-05, or all and the other pages."""
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
    """Renew the record NAME, or all in chapters/records/, with the tests that make them (for authors)."""
    from course import record

    for one in [name] if name else record.TESTS:
        print(f"{record.renew(one).name} is renewed.")
