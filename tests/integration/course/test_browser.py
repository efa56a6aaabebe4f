"""`make lab` on a copy of the course, clicked through in Chromium; `make screenshots` renews chapters/figures/."""

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from chromium import PATIENCE, browser
from fake_course import CHECKOUT, FakeCourse, until
from mlflow import MlflowClient
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from course.chapters import all_chapters
from course.copies import make_copy
from course.servers import start_accounts_server

pytestmark = pytest.mark.xdist_group("browser")

__all__ = ["browser"]  # a fixture
NAME = "01_track_your_first_model"
WINDOW = {"width": 1280, "height": 800}
COMPARED = "tags.stage = 'prototyping' and tags.family != 'forest'"  # the nine runs, without the exercise's


@dataclass
class Lab:
    """A running `make lab`, with a browser beside it."""

    course: FakeCourse
    process: subprocess.Popen
    address: str  # JupyterLab's, with the token, as printed
    ui: str
    opened: str  # what `make lab` itself opened in the browser
    untouched: dict[Path, bytes]  # chapters/ and notebooks/ before anything ran
    browser: Browser
    pictures: Path
    requested: set[str] = field(default_factory=set)

    @property
    def server(self) -> str:
        return self.address.partition("/lab/")[0]

    def run(self, chapters: str) -> None:
        """Run chapters with their solutions on the learner's store."""
        done = self.course.run("run", chapters)
        assert done.returncode == 0, done.stdout + done.stderr

    def window(self, **options) -> Page:
        """A window of a browser that has never been here."""
        context = self.browser.new_context(viewport=WINDOW, locale="en-GB", timezone_id="UTC", **options)
        context.set_default_timeout(PATIENCE * 1000)
        context.on("request", lambda request: self.requested.add(request.url))
        return context.new_page()

    def picture(self, page: Page, name: str) -> None:
        """Keep a picture of the window, in 256 colours, which looks the same and takes a third of the space."""
        page.mouse.move(640, 2)  # away from what changes under the pointer
        page.wait_for_timeout(500)  # the end of moving things
        image = Image.open(io.BytesIO(page.screenshot(animations="disabled", caret="hide"))).convert("RGB")
        assert image.size == (WINDOW["width"], WINDOW["height"])
        image.quantize(256, dither=Image.Dither.NONE).save(self.pictures / f"{name}.png", optimize=True)


def contents(root: Path) -> dict[Path, bytes]:
    """All bytes of chapters/ and notebooks/."""
    files = [path for folder in ("chapters", "notebooks") for path in (root / folder).rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in files if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory, request):
    """`make lab` on a copy of the course, by somebody whose JupyterLab was never started before."""
    folder = tmp_path_factory.mktemp("lab")
    course = FakeCourse(folder)
    for name in ("chapters", "notebooks", "data", "projects", ".github"):
        unwanted = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(CHECKOUT / name, course.root / name, dirs_exist_ok=True, ignore=unwanted)
    shutil.copy(CHECKOUT / "jupytext.toml", course.root)
    untouched = contents(course.root)
    opened = folder / "opened"
    opener = folder / "browser.sh"
    opener.write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{opened}'\n")
    opener.chmod(0o755)
    fresh = {f"JUPYTER_{name}_DIR": folder / name.lower() for name in ("CONFIG", "DATA")}
    # the environment is there already: no setup, whose stamp knows only .venv, and the programs beside this Python
    make = ["make", "--no-print-directory", "-C", CHECKOUT, "PYTHON=true", f"BIN={Path(sys.executable).parent}", "lab"]
    fresh |= {"IPYTHONDIR": folder / "ipython", "BROWSER": f"{opener} %s", "LOGNAME": "learner", "MAKEFLAGS": ""}
    with course.started(*make, **fresh) as process:
        until(lambda: "Ctrl-C" in course.output() or process.poll() is not None, 120, "the start of `make lab`")
        printed = re.search(r"JupyterLab +(http\S+)\nMLflow UI +(http\S+)\n.+\nStop both with Ctrl-C", course.output())
        assert printed, course.output()
        until(lambda: opened.exists() and opened.read_text(), 10, "the browser's start")
        pictures = CHECKOUT / "chapters" / "figures"
        if not request.config.getoption("--screenshots"):
            pictures = folder / "pictures"
            pictures.mkdir()
        yield Lab(course, process, *printed.groups(), opened.read_text(), untouched, browser, pictures)


@pytest.fixture(scope="module")
def notebook(lab):
    """Chapter 01 in JupyterLab, after Run > Run All Cells and File > Save: the page and the saved file."""
    path = lab.course.root / "work" / f"{NAME}.ipynb"
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)
    page = lab.window()
    page.goto(lab.address)
    indicator = page.locator(".jp-Notebook-ExecutionIndicator")
    # a moment after the page opens JupyterLab says idle without a kernel, and would forget what it is told to run
    until(lambda: connected(lab, page), 60, "the kernel's start")
    expect(page.locator("#jp-main-statusbar")).to_contain_text("Python 3 (ipykernel) | Idle")
    expect(page.locator(".jp-Notebook .jp-MarkdownCell h1")).to_contain_text("Track your first model")
    menu(page, "Run", "Run All Cells")
    expect(indicator).to_have_attribute("data-status", "busy")
    # JupyterLab counts the cells that it ran itself: the outputs that came with the notebook prove nothing
    expect(indicator).to_contain_text(f"Executed {cells} cells", timeout=240_000)
    expect(indicator).to_have_attribute("data-status", "idle")
    before = path.stat().st_mtime_ns
    menu(page, "File", "Save Notebook")
    until(lambda: path.stat().st_mtime_ns != before, PATIENCE, "the saving of the notebook")
    expect(page.locator(".jp-mod-dirty")).to_have_count(0)
    return SimpleNamespace(page=page, path=path, saved=nbformat.read(path, as_version=4))


def connected(lab: Lab, page: Page) -> bool:
    """Whether the page talks to a kernel that has nothing to do."""
    answer = page.request.get(f"{lab.server}/api/kernels?token={lab.address.partition('token=')[2]}")
    kernels = answer.json() if answer.ok else []  # while a kernel comes up, the server may answer with an error
    return any(kernel["connections"] and kernel["execution_state"] == "idle" for kernel in kernels)


def menu(page: Page, title: str, entry: str) -> None:
    page.get_by_role("menuitem", name=title, exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text(entry, exact=True).click()


def shown(notebook, number: int) -> Locator:
    """Scroll a cell to the top of the window; JupyterLab draws only what is near."""
    cell = notebook.page.locator(f'.jp-Cell[data-windowed-list-index="{number}"]')
    for _ in range(30):  # JupyterLab may scroll back while it measures the cells that it draws
        cell.evaluate("cell => cell.scrollIntoView()")
        notebook.page.wait_for_timeout(300)
        box = cell.bounding_box()
        if box and box["y"] + box["height"] > 100 and box["y"] < 600:
            break
    expect(cell).to_be_in_viewport()
    return cell


def test_make_lab_opens_the_first_chapter_in_the_browser(lab):
    """Its token, and its end: test_course_lab.py."""
    assert lab.opened == lab.address
    assert re.fullmatch(rf"http://127\.0\.0\.1:\d+/lab/tree/work/{NAME}\.ipynb\?token=[\w-]{{32}}", lab.address)
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", lab.ui)


def test_chapter_01_runs_to_its_end(notebook):
    page, code = notebook.page, [cell for cell in notebook.saved.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    expect(page.locator(".jp-OutputArea-output").filter(has_text="Traceback")).to_have_count(0)
    # no pop-up stands in the way: the first start would ask about news in one of these
    expect(page.locator(".jp-Dialog, .Toastify__toast")).to_have_count(0)
    expect(page.locator(".jp-Notification-Status")).to_have_text("0")


def test_the_learner_finds_exercises_open_and_solutions_folded(notebook):
    cells = list(enumerate(notebook.saved.cells))
    checks = [number for number, cell in cells if ", answer)" in cell.source]
    solutions = [number for number, cell in cells if "<summary>Solution 01." in cell.source]
    assert 2 <= len(checks) == len(solutions)
    for number in checks:
        said = shown(notebook, number).locator(".jp-OutputArea-output")
        expect(said).to_have_text(re.compile(r"^Exercise 01\.\d: not answered yet: [^\n]+\s*$"))
    hints = [number for number, cell in cells if "<summary>Hint" in cell.source]
    for number, summary in [(hints[0], "Hint"), *((number, re.compile(r"^Solution 01\.\d$")) for number in solutions)]:
        folded = shown(notebook, number).locator("details")  # opens with a click
        expect(folded.locator("p").first).to_be_hidden()
        folded.get_by_text(summary, exact=True).click()
        expect(folded.locator("p").first).to_be_visible()


def test_only_the_learners_copy_changes(lab, notebook):
    assert contents(lab.course.root) == lab.untouched
    with lab.course.here():
        copy = make_copy(all_chapters()[0])
    assert [cell.source for cell in notebook.saved.cells] == [cell.source for cell in copy.cells]


def test_picture_of_jupyterlab(lab, notebook):
    title = "Fit a forest and test it"
    start = next(number for number, cell in enumerate(notebook.saved.cells) if f"## {title}\n" in cell.source)
    shown(notebook, start).locator("h2", has_text=title).evaluate("heading => heading.scrollIntoView()")
    for number in (start + 1, start + 3):
        cell = notebook.page.locator(f'.jp-Cell[data-windowed-list-index="{number}"]')
        expect(cell.locator(".jp-OutputArea-output")).to_be_in_viewport()
    lab.picture(notebook.page, "01_jupyterlab")


def experiment(lab: Lab, name: str) -> Page:
    """Open an experiment of the MLflow UI in a new window."""
    page = lab.window()
    page.goto(lab.ui)
    choose_model_training(page)
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    return page


def choose_model_training(page: Page) -> None:
    """Leave the mode for generative AI, and close the assistant, which opens by itself."""
    page.get_by_role("button", name="Model training", exact=True).click()
    question = page.get_by_placeholder("Ask a question...")
    question.locator("xpath=ancestor::*[.//button[@aria-label='Close']][1]").get_by_label("Close").click()
    expect(question).to_be_hidden()


def toggle_columns(page: Page, *columns: str, widen: Sequence[str]) -> None:
    """Show or hide columns of the table of runs, and make some as wide as their names."""
    page.get_by_text("Columns", exact=True).click()
    tree = page.get_by_test_id("column-selector-tree")
    for column in columns:
        page.get_by_placeholder("Search columns").fill(column)
        tree.locator("[class$=tree-title]").filter(has_text=re.compile(rf"^{column}$")).click()
    page.keyboard.press("Escape")
    expect(tree).to_be_hidden()
    page.get_by_role("heading", name="Runs").click()
    for column in widen:
        header = page.locator(".ag-header-cell", has_text=column)
        header.locator(".ag-header-cell-resize").dblclick()


def test_the_run_is_found_in_the_mlflow_ui(lab, notebook):
    page = experiment(lab, "stockpred")
    for name in ("forest-by-hand", "forest"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    hidden = ("Dataset", "Source", "Models")  # the columns that the chapter talks about take their place
    toggle_columns(page, *hidden, "train_accuracy", "test_accuracy", "stage", widen=["train_accuracy", "test_accuracy"])
    # the filter of the chapter's cell, typed into the search field
    search(page, "metrics.train_accuracy > 0.9 and tags.stage = 'prototyping'")
    expect(page.get_by_role("link", name="forest", exact=True)).to_have_count(0)
    for value in ("0.957", "0.528"):
        expect(page.get_by_role("gridcell", name=re.compile(rf"^{value}")).first).to_be_visible()
    lab.picture(page, "01_mlflow_runs")

    page.get_by_role("link", name="forest-by-hand", exact=True).click()
    expect(page.get_by_role("heading", name="forest-by-hand", exact=True)).to_be_visible()
    for metric, value in (("train_accuracy", "0.957"), ("test_accuracy", "0.528")):
        expect(page.get_by_role("row", name=re.compile(rf"^{metric} {value}\d+"))).to_be_visible()
    expect(page.get_by_role("row", name="random_state 0")).to_be_attached()
    expect(page.get_by_role("button", name="Edit tags")).to_be_attached()
    lab.picture(page, "01_mlflow_run")

    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("confusion_matrix.png", exact=True).first.click()
    expect(page.locator("img").first).to_be_visible()
    page.get_by_text(re.compile("^Path: file:")).evaluate("path => { path.textContent = 'Path: file:///…' }")
    lab.picture(page, "01_mlflow_artifact")


def search(page: Page, filter: str) -> None:
    page.get_by_placeholder("metrics.rmse").fill(filter)
    page.keyboard.press("Enter")


def view(page: Page, name: str) -> None:
    """Switch between the table and the charts of the list of runs."""
    page.locator("label", has=page.locator(f"input[value={name}]")).click()


@pytest.fixture(scope="module")
def part_1(lab, notebook):
    """The learner's store after chapters 02 to 04, with their solutions."""
    lab.run("02-04")


def test_two_runs_of_the_project_are_compared_in_the_mlflow_ui(lab, part_1):
    page = experiment(lab, "stockpred")
    toggle_columns(page, "Dataset", "Source", "Models", widen=[])
    search(page, "attributes.run_name LIKE 'project%'")
    expect(page.get_by_role("link", name="forest", exact=True)).to_have_count(0)
    view(page, "CHART")
    expect(page.get_by_role("heading", name="f1_down", exact=True)).to_be_visible()
    page.wait_for_timeout(1000)  # the bars grow
    lab.picture(page, "02_mlflow_charts")
    view(page, "TABLE")
    for name in ("project", "project-300"):
        row = page.locator(".ag-row", has=page.get_by_role("link", name=name, exact=True))
        row.locator("input[type=checkbox]").first.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    for section in ("Visualizations", "Run details"):
        page.get_by_text(section, exact=True).click()
    expect(page.get_by_text("Show diff only", exact=True).first).to_be_visible()
    for value in ("f1_down", "0.476", "0.482"):
        expect(page.get_by_text(value, exact=True).first).to_be_visible()
    lab.picture(page, "02_mlflow_compare")


def test_the_page_of_a_model_leads_to_its_id_and_its_run(lab, part_1):
    page = experiment(lab, "stockpred")
    page.get_by_role("link", name="forest", exact=True).click()
    expect(page.get_by_role("heading", name="Logged models (1)")).to_be_attached()
    page.get_by_role("gridcell").get_by_role("link", name="model", exact=True).click()
    expect(page.get_by_role("heading", name="model", exact=True)).to_be_visible()
    expect(page.get_by_text("Model ID", exact=True)).to_be_visible()
    lab.picture(page, "02_mlflow_model")
    page.get_by_text("Artifacts", exact=True).click()
    for file in ("MLmodel", "model.pkl", "requirements.txt"):
        expect(page.get_by_text(file, exact=True)).to_be_visible()


def test_baselines_are_sorted_in_the_mlflow_ui(lab, part_1):
    page = experiment(lab, "ideation")
    search(page, "attributes.run_name LIKE 'baseline-%'")
    toggle_columns(page, "Dataset", "Source", "Models", "brier_value", "target", widen=["brier_value", "Run Name"])
    page.get_by_test_id("sort-header-brier_value").click()  # the highest first
    expect(page.locator('.ag-row[row-index="0"]', has_text="baseline-big-move-always")).to_be_visible()
    page.get_by_test_id("sort-header-brier_value").click()
    search(page, "params.forecast LIKE '%rate'")  # the filter of the chapter's cell
    expect(page.locator('.ag-row[row-index="0"]', has_text="baseline-big-move-rolling-rate")).to_be_visible()
    lab.picture(page, "03_mlflow_baselines")
    page.goto(f"{lab.ui}/#/experiments")
    expect(page.get_by_role("row", name="ideation")).to_contain_text("criterion: Brier skill")


def test_prototypes_are_sorted_by_skill_in_the_mlflow_ui(lab, part_1):
    page = experiment(lab, "ideation")
    search(page, "tags.stage = 'prototyping' and attributes.run_name != 'cautious-forest'")
    shown = [f"brier_skill_{end}" for end in ("low", "value", "high")]
    toggle_columns(page, "Dataset", "Source", "Models", *shown, widen=[*shown, "Run Name"])
    page.get_by_test_id("sort-header-brier_skill_low").click()
    expect(page.locator('.ag-row[row-index="0"]', has_text="big-move-logistic-volatility")).to_be_visible()
    expect(page.locator('.ag-row[row-index="3"]', has_text="direction-forest")).to_be_visible()
    lab.picture(page, "04_mlflow_prototypes")


@pytest.fixture(scope="module")
def part_2(lab, part_1):
    """The learner's store after chapters 05 to 07, with their solutions."""
    lab.run("05-07")


def test_a_tag_that_a_colleague_adds_in_the_mlflow_ui_is_read_over_http(lab):
    client = MlflowClient(lab.ui)
    run = client.create_run("0", run_name="by-http").info.run_id
    client.log_metric(run, "accuracy", 0.5)
    client.set_terminated(run)
    page = experiment(lab, "Default")
    page.get_by_role("link", name="by-http", exact=True).click()
    page.get_by_role("button", name=re.compile("^(Add|Edit) tags$")).click()
    page.get_by_role("dialog").get_by_role("combobox").click()
    page.keyboard.type("reviewed")
    page.keyboard.press("Enter")
    page.get_by_placeholder("Type a value").fill("yes")
    page.get_by_role("button", name="Add tag", exact=True).click()
    page.get_by_role("button", name="Save tags").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    until(lambda: client.get_run(run).data.tags.get("reviewed") == "yes", PATIENCE, "the tag")
    lab.picture(page, "05_mlflow_by_http")


def test_a_metric_with_steps_is_a_curve_in_the_mlflow_ui(lab, part_2):
    page = experiment(lab, "workbench")
    page.get_by_role("link", name="coin", exact=True).first.click()  # the second is the model
    page.get_by_role("tab", name="Model metrics").click()
    for metric in ("accuracy", "days_up"):
        expect(page.get_by_role("heading", name=metric, exact=True)).to_be_visible()
    page.wait_for_timeout(1000)  # the curves grow
    lab.picture(page, "05_mlflow_metrics")


def test_the_nine_runs_are_compared_in_the_mlflow_ui(lab, part_2):
    page = experiment(lab, "comparison")
    search(page, COMPARED)
    shown = ["brier_skill_low", "brier_skill_value"]
    toggle_columns(page, "Dataset", "Source", "Models", *shown, widen=[*shown, "Run Name"])
    page.get_by_test_id("sort-header-brier_skill_low").click()
    expect(page.locator('.ag-row[row-index="0"]', has_text="big-move-volatility-logistic")).to_be_visible()
    expect(page.locator('.ag-row[row-index="8"]', has_text="big-move-flags-net")).to_be_visible()
    lab.picture(page, "06_mlflow_comparison")

    view(page, "CHART")
    page.get_by_placeholder("Search metric charts").fill("brier_skill_[lv]")
    expect(page.get_by_role("heading", name="brier_skill_low", exact=True)).to_be_visible()
    page.wait_for_timeout(1000)  # the bars grow
    lab.picture(page, "06_mlflow_charts")

    view(page, "TABLE")
    for name in ("logistic", "xgboost", "net"):
        row = page.locator(".ag-row", has=page.get_by_role("link", name=f"big-move-volatility-{name}", exact=True))
        row.locator("input[type=checkbox]").first.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.get_by_text("Visualizations", exact=True).click()
    expect(page.get_by_text("num_boost_round", exact=True).first).to_be_visible()
    lab.picture(page, "06_mlflow_compare")


def test_a_run_shows_its_data_sets_in_the_mlflow_ui(lab, part_2):
    page = experiment(lab, "comparison")
    search(page, COMPARED)
    page.get_by_role("link", name="direction-flags-logistic", exact=True).click()
    page.get_by_text("sp500-direction-flags").first.click()
    expect(page.get_by_text("day_01").first).to_be_visible()
    lab.picture(page, "06_mlflow_dataset")


def test_nested_runs_are_unfolded_below_their_parent_in_the_mlflow_ui(lab, part_2):
    page = experiment(lab, "practice")
    search(page, "attributes.run_name LIKE 'rate%'")
    expect(page.get_by_role("link", name="stray", exact=True)).to_have_count(0)
    toggle_columns(page, "Dataset", "Source", "Models", "loss", "accuracy", "rate", widen=["accuracy"])
    page.locator(".ag-row", has_text="rates").locator("button").first.click()
    for name in ("rate-0.01", "rate-0.3", "rate-4.0"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    lab.picture(page, "07_mlflow_nested")

    page.get_by_role("link", name="rates", exact=True).click()
    expect(page.get_by_text("Which learning rate brings the training loss down")).to_be_visible()
    expect(page.get_by_role("link", name="rate-4.0")).to_be_visible()
    lab.picture(page, "07_mlflow_note")


def test_runs_that_failed_or_were_killed_are_marked_in_the_mlflow_ui(lab, part_2):
    page = experiment(lab, "practice")
    toggle_columns(page, "Dataset", "Source", "Models", "loss", "rate", widen=[])
    expect(page.get_by_role("link", name="stray", exact=True)).to_be_visible()
    lab.picture(page, "07_mlflow_status")
    for name, status in (("killed", "Killed"), ("failing", "Failed")):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_text(status, exact=True)).to_be_visible()
        page.go_back()


def test_system_metrics_are_drawn_in_the_mlflow_ui(lab, part_2):
    page = experiment(lab, "practice")
    page.get_by_role("link", name="memory-leak", exact=True).click()
    page.get_by_role("tab", name="System metrics").click()
    page.get_by_placeholder("Search metric charts").fill("system_memory|cpu")
    expect(page.get_by_role("heading", name="system_memory_usage_megabytes")).to_be_visible()
    page.wait_for_timeout(1000)  # the curves grow
    lab.picture(page, "07_mlflow_system_metrics")


def test_the_trials_of_a_search_are_compared_in_the_mlflow_ui(lab, part_2):
    """Last, because chapter 08 adds runs to the experiment `practice` of chapter 07."""
    lab.run("08")
    page = experiment(lab, "tuning")
    search_run = page.get_by_role("link", name="big-move-volatility-xgboost", exact=True)
    expect(search_run).to_be_visible()
    shown = ("skill", "state", "max_depth", "years")
    toggle_columns(page, "Dataset", "Source", "Models", *shown, widen=["Run Name"])
    page.locator(".ag-row", has=search_run).get_by_role("button").first.click()
    expect(page.get_by_role("link", name="trial-039", exact=True)).to_be_visible()
    lab.picture(page, "08_mlflow_tree")
    search(page, "tags.state = 'complete' and params.max_depth != ''")
    page.get_by_test_id("sort-header-skill").click()  # the highest first, without their parent
    expect(page.locator('.ag-row[row-index="0"]', has_text="trial-011")).to_be_visible()
    expect(search_run).to_have_count(0)
    page.locator(".ag-header input[type=checkbox]").locator("visible=true").first.check()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_role("heading", name="Comparing 20 Runs from 1 Experiment")).to_be_visible()
    page.get_by_role("combobox").first.click()
    page.locator("[class*=select-dropdown]").get_by_text("years", exact=True).last.click()
    page.keyboard.press("Escape")
    page.wait_for_timeout(1000)  # the plot is drawn again
    lab.picture(page, "08_mlflow_parallel")


def show_description(page: Page, name: str) -> None:
    """Open the file MLmodel on the page of a logged model, and hide where the store is."""
    page.get_by_role("link", name="Models", exact=True).click()
    page.get_by_role("link", name=name, exact=True).first.click()
    page.get_by_text("Artifacts", exact=True).click()
    page.get_by_text("MLmodel", exact=True).first.click()
    expect(page.get_by_text("mlflow_version").first).to_be_visible()
    hide_paths = r"""() => {
        const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        while (texts.nextNode())
            texts.currentNode.data = texts.currentNode.data.replace(/[/]{3}\S+?(?=[/]artifacts)/, "///…");
    }"""
    page.evaluate(hide_paths)


def test_the_description_of_a_model_is_shown_in_the_mlflow_ui(lab, part_2):
    """After the test above, which runs chapter 08."""
    lab.run("09")
    page = experiment(lab, "tuning")
    show_description(page, "big-move")
    lab.picture(page, "09_mlflow_model")

    page = experiment(lab, "practice")
    show_description(page, "alarm")
    params = page.get_by_text("threshold").last
    params.scroll_into_view_if_needed()
    expect(params).to_be_in_viewport()
    lab.picture(page, "09_mlflow_params")


def test_the_code_of_a_model_and_the_metrics_of_its_run_are_shown_in_the_mlflow_ui(lab, part_2):
    """After chapter 08, whose candidate chapter 10 packages."""
    lab.run("10")
    page = experiment(lab, "models")
    page.get_by_role("link", name="big-move-volatility-xgboost-decision", exact=True).click()
    expect(page.get_by_role("row", name=re.compile(r"^brier_skill_value 0\.143\d+ decision"))).to_be_visible()
    expect(page.get_by_text("pilot: model")).to_be_visible()
    lab.picture(page, "10_mlflow_run")
    page.get_by_role("gridcell").get_by_role("link", name="decision", exact=True).first.click()
    page.get_by_text("Artifacts", exact=True).click()
    page.get_by_text("decision_model.py", exact=True).click()
    expect(page.get_by_text("class DecisionModel", exact=False).first).to_be_visible()
    page.get_by_text(re.compile("^Path: file:")).evaluate("path => { path.textContent = 'Path: file:///…' }")
    lab.picture(page, "10_mlflow_code")


def test_versions_and_their_promotions_are_shown_in_the_mlflow_ui(lab, part_2):
    """After the pictures of chapter 10, whose model chapter 11 registers."""
    lab.run("11")
    page = experiment(lab, "promotions")
    search(page, "tags.registered_model = 'pystock-big-move' and tags.outcome != 'interrupted'")
    toggle_columns(page, "Dataset", "Source", "Models", "from", "to", "outcome", "why", widen=["Run Name", "why"])
    expect(page.get_by_text("refused", exact=True)).to_be_visible()
    lab.picture(page, "11_mlflow_promotions")

    page.get_by_role("link", name="Model registry", exact=True).click()
    page.get_by_role("dialog").get_by_label("Close").click()  # a note about aliases
    page.get_by_role("link", name="pystock-big-move", exact=True).click()
    page.get_by_text("Tags", exact=True).first.click()  # folds the tags, so that all versions fit
    for alias in ("champion", "challenger"):
        expect(page.get_by_text(f"@ {alias}", exact=True)).to_be_visible()
    lab.picture(page, "11_mlflow_model")

    page.get_by_role("link", name="Version 1", exact=True).click()
    expect(page.get_by_text("big-move-volatility-xgboost-decision", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Promote model")).to_be_visible()
    lab.picture(page, "11_mlflow_version")


SHARED = """
import mlflow
from mlflow.server import get_app_client
from pystock import models, tuning

X, y = tuning.training_data("sp500", "big_move", "volatility")
with mlflow.start_run():
    info = models.log_decision_model(tuning.build("logistic").fit(X, y), X, threshold=0.1, name="big-move")
client, accounts = mlflow.MlflowClient(), get_app_client("basic-auth", mlflow.get_tracking_uri())
model = client.create_logged_model("0", name="big-move")
client.log_model_artifacts(model.model_id, mlflow.artifacts.download_artifacts(info.model_uri))
client.finalize_logged_model(model.model_id, "READY")
client.create_registered_model("dev.big-move")
client.create_model_version("dev.big-move", f"models:/{model.model_id}", model_id=model.model_id)
for number in (1, 2):
    client.copy_model_version("models:/dev.big-move/1", "prod.big-move")
client.set_model_version_tag("prod.big-move", "1", "validation_status", "rejected")
for name in ("ada", "rosa"):
    accounts.create_user(name, f"password of {name}")
accounts.grant_user_permission("rosa", "registered_model", "prod.big-move", "MANAGE")
client.create_webhook("acceptance", "http://127.0.0.1:8080/events", events=["model_version_tag.set"], secret="secret")
"""


def test_a_shared_registry_in_the_mlflow_ui(lab):
    """A server with accounts, with the models and the webhook of chapter 12."""
    with lab.course.here():
        server = start_accounts_server()
    with server.wait_until_healthy():
        login = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": server.password}
        lab.course.python(SHARED, MLFLOW_TRACKING_URI=server.url, **login)
        page = lab.window(http_credentials={"username": "rosa", "password": "password of rosa"})
        page.goto(server.url)
        choose_model_training(page)
        page.get_by_role("link", name="Model registry").click()
        page.get_by_role("dialog").get_by_label("Close").click()  # a note about aliases
        page.get_by_role("link", name="prod.big-move", exact=True).click()
        page.get_by_role("link", name="Version 1", exact=True).click()
        expect(page.get_by_text("Copied from")).to_be_visible()
        expect(page.get_by_role("button", name="Promote model")).to_be_visible()
        lab.picture(page, "12_mlflow_copied")
        page = lab.window(http_credentials={"username": "admin", "password": server.password})
        page.goto(server.url)
        choose_model_training(page)
        page.get_by_text("Settings", exact=True).click()
        page.get_by_text("Webhooks", exact=True).click()
        expect(page.get_by_text("Model version tag set")).to_be_visible()
        lab.picture(page, "12_mlflow_webhooks")

        page = lab.window(http_credentials={"username": "ada", "password": "password of ada"})
        page.goto(f"{server.url}/#/models/prod.big-move/versions/2")
        page.get_by_text("Add", exact=True).first.click()
        page.get_by_role("dialog").get_by_role("combobox").click()
        page.keyboard.type("champion")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Save aliases").click()
        expect(page.get_by_role("dialog").get_by_text("INTERNAL_ERROR")).to_be_visible()  # the answer to 12.2


def test_no_page_asks_for_anything_beyond_this_machine(lab, notebook):
    there = {url for url in lab.requested if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))}
    assert lab.requested and not there
