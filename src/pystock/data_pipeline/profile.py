"""A data profile of the stage staging: tables and figures in one HTML page, to read before the data is used.

A frame here is one of the stage staging: one row per day, columns Open … Volume and the flags of `contract`.
"""

import base64
import html
import io

import pandas as pd
from matplotlib.figure import Figure

from pystock.data_pipeline.contract import FLAGS
from pystock.price_rules import COLUMNS

BLUE, ORANGE = "#006BA4", "#FF800E"  # of matplotlib's tableau-colorblind10
MOST_ROWS = 50  # of a list on the page; the files next to it have all
STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em } img { max-width: 100% }
table { border-collapse: collapse } th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ccc }
th:first-child, td:first-child, .text td:last-child { text-align: left }"""


def shares_of_stale_opens(frame: pd.DataFrame) -> pd.Series:
    """Return the share of days, in per cent, whose open equals the previous close, by year."""
    return (100 * frame["stale_open"].groupby(frame.index.year.rename("year")).mean()).rename("stale opens (% of days)")


def stale_opens_by_year(share: pd.Series) -> Figure:
    """Draw `shares_of_stale_opens`, one bar per year."""
    figure = _figure()
    axes = figure.subplots()
    axes.bar(share.index.astype(str), share, color=BLUE)
    axes.tick_params(axis="x", rotation=90)
    axes.set(xlabel="year", ylabel=share.name, ylim=(0, 100))
    return figure


def closes_and_volumes(frame: pd.DataFrame) -> Figure:
    """Draw the closes above the volumes, day by day; mark days without volume and days after a missing one."""
    figure = _figure(height=4.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    above.plot(frame.index, frame["Close"], color=BLUE, linewidth=0.8, label="close")
    below.plot(frame.index, frame["Volume"].where(~frame["no_volume"]), color=BLUE, linewidth=0.4, label="volume")
    late, silent = frame["Close"][frame["after_missing"]], 0 * frame["Volume"][frame["no_volume"]]
    for axes, marked, label in ((above, late, "after a missing day"), (below, silent, "no volume")):
        if len(marked):
            axes.plot(marked, "^", color=ORANGE, markersize=6, clip_on=False, label=label)
            axes.legend(frameon=False)
    above.set(ylabel="close (index points)")
    above.yaxis.set_major_formatter("{x:,g}")
    below.set(ylabel="volume (shares)", xlabel="year", ylim=(0, None))
    return figure


def page(frame: pd.DataFrame, quarantine: pd.DataFrame, missing_days: pd.DatetimeIndex, title: str) -> str:
    """Return the page: counts, flags, values by column, the figures, the missing days and the bad rows.

    `quarantine` and `missing_days` are those of `contract.examine`. Style and pictures are inside the page.
    """
    counts = {"good rows": len(frame), "bad rows": len(quarantine), "missing days": len(missing_days)}
    counts |= {flag: int(frame[flag].sum()) for flag in FLAGS}
    meanings = {"bad rows": "in quarantine, below", "missing days": "trading days without a row", **FLAGS}
    facts = pd.DataFrame([(name, f"{count:,}", meanings.get(name, "")) for name, count in counts.items()])
    values = frame[COLUMNS].agg(["min", "median", "max"]).T.map("{:,.2f}".format).rename_axis("column").reset_index()
    span = f"{frame.index[0]:%Y-%m-%d} to {frame.index[-1]:%Y-%m-%d}" if len(frame) else "no good rows"
    parts = [f"<h1>{html.escape(title)}</h1><p>{span}</p>"]
    parts += [_table(facts.set_axis(["what", "rows", "meaning"], axis=1), "text"), "<h2>Values</h2>", _table(values)]
    if len(frame):
        share, close = shares_of_stale_opens(frame), frame["Close"]
        bars = f"Bar chart by year: stale opens on {share.min():.1f} to {share.max():.1f} % of the days"
        lines = f"Closes from {close.min():,.2f} to {close.max():,.2f}, and volumes up to {frame['Volume'].max():,}"
        by_year = share.map("{:.1f}".format).reset_index()
        parts += ["<h2>Opens that equal the previous close</h2>", _picture(stale_opens_by_year(share), bars)]
        parts += [_table(by_year), "<h2>Closes and volumes</h2>", _picture(closes_and_volumes(frame), lines)]
    for flag in ("no_volume", "after_missing"):
        parts.append(f"<p>{flag}: {_listed(frame.index[frame[flag]])}</p>")
    parts.append(f"<h2>Missing days</h2><p>{_listed(missing_days)}</p><h2>Bad rows</h2>")
    parts.append(_table(quarantine.head(MOST_ROWS).reset_index(), "text") if len(quarantine) else "<p>none</p>")
    if len(quarantine) > MOST_ROWS:
        parts.append(f"<p>and {len(quarantine) - MOST_ROWS:,} more in the quarantine file</p>")
    head = f'<head><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style></head>'
    return f'<!DOCTYPE html>\n<html lang="en">{head}\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _figure(height: float = 3) -> Figure:
    figure = Figure(figsize=(8, height))
    # By hand: a layout that measures each text takes as long as all the rest of a page
    figure.subplots_adjust(left=0.1, right=0.98, top=0.96, bottom=0.75 / height, hspace=0.2)
    return figure


def _picture(figure: Figure, alternative: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(alternative)}" src="data:image/png;base64,{data}"></p>'


def _table(frame: pd.DataFrame, kind: str = "") -> str:
    return str(frame.to_html(index=False, border=0, classes=kind))  # which escapes texts


def _listed(days: pd.DatetimeIndex) -> str:
    more = f" and {len(days) - MOST_ROWS:,} more" if len(days) > MOST_ROWS else ""
    return (", ".join(days[:MOST_ROWS].strftime("%Y-%m-%d")) or "none") + more
