"""Compare an executed notebook with the committed one by nbval's own rules, without a second kernel."""

import difflib
from types import SimpleNamespace

from nbformat import NotebookNode
from nbval.plugin import IPyNbCell, nocolors

# nbval's own list (IPyNbFile.setup): what differs from run to run, and pictures, which it does not compare
VARYING = ("metadata", "traceback", "prompt_number", "output_type", "name", "execution_count")
SKIPPED = (*VARYING, "application/vnd.jupyter.widget-view+json", "image/png", "image/jpeg")
EXCUSES = ("nbval-ignore-output", "nbval-skip", "raises-exception", "NBVAL_IGNORE_OUTPUT", "NBVAL_SKIP")


class _Comparison(SimpleNamespace):
    """The part of nbval's cell that its `compare_outputs` uses."""

    compare_outputs = IPyNbCell.compare_outputs

    def format_output_compare(self, key, left, right):
        self.comparison_traceback += [key, *difflib.ndiff(str(left).splitlines(), str(right).splitlines())]

    def sanitize(self, text):
        return text


def is_compared(cell: NotebookNode) -> bool:
    """Whether the outputs of a cell count: it was run, and no tag or comment excuses it."""
    excused = set(EXCUSES) & {*cell.metadata.get("tags", []), *cell.source.split()}
    return cell.cell_type == "code" and cell.execution_count is not None and not excused


def differing(committed: NotebookNode, executed: NotebookNode) -> dict[int, str]:
    """Return nbval's explanation for each code cell whose outputs differ, by number from 1, without injected cells."""
    cells = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    explanations = {}
    for number, (before, now) in enumerate(zip(committed.cells, cells, strict=True), 1):
        if not is_compared(before):
            continue
        comparison = _Comparison(parent=SimpleNamespace(skip_compare=SKIPPED), colors=nocolors, comparison_traceback=[])
        if not comparison.compare_outputs(now.outputs, before.outputs):
            explanations[number] = "\n".join(comparison.comparison_traceback)
    return explanations
