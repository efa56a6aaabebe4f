"""A page that shows what is in a stage staging, tables and figures in one HTML file, to be looked at before it is used.

A frame here is one of the stage staging: a row a day, columns Open … Volume and the flags of `contract`. The
figures are matplotlib's, without its global state, so that a pipeline may draw hundreds; a notebook shows them as well.
"""

import base64
import html
import io

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from pystock.data_pipeline.contract import FLAGS
from pystock.price_rules import COLUMNS

BLUE, ORANGE, GREY = "#006BA4", "#FF800E", "#595959"  # of matplotlib's tableau-colorblind10
MOST_ROWS = 50  # of a list on the page; the whole of it is in the files beside it
STYLE = """
body { font: 16px/1.5 sans-serif; color: #222; background: #fff; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .2em .8em; text-align: right; white-space: nowrap }
th { border-bottom: 1px solid #595959 }
th:first-child, td:first-child, .text td:last-child { text-align: left; white-space: normal }
img { max-width: 100%; height: auto }"""


def stale_opens_by_year(frame: pd.DataFrame) -> Figure:
    """Draw the share of days, in per cent, whose open equals the close before, a bar a year."""
    share = shares_of_stale_opens(frame)
    figure = _figure()
    axes = figure.subplots()
    axes.bar(share.index.astype(str), share, color=BLUE)
    axes.tick_params(axis="x", rotation=90)
    axes.set(xlabel="year", ylabel="stale opens (% of days)", ylim=(0, 100))
    return figure


def shares_of_stale_opens(frame: pd.DataFrame) -> pd.Series:
    """Return what `stale_opens_by_year` shows: per cent of days, by year."""
    return (100 * frame["stale_open"].groupby(frame.index.year).mean()).rename("stale_open").rename_axis("year")


def closes_and_volumes(frame: pd.DataFrame) -> Figure:
    """Draw the closes above the volumes, day by day; mark days without volume and days after a missing one."""
    figure = _figure(height=4.5)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    above.plot(frame.index, frame["Close"], color=BLUE, linewidth=0.8, label="close")
    below.plot(frame.index, frame["Volume"].where(~frame["no_volume"]), color=BLUE, linewidth=0.4, label="volume")
    for axes, flag, label in ((above, "after_missing", "after a missing day"), (below, "no_volume", "no volume")):
        days = frame.index[frame[flag]]
        if len(days):
            heights = frame.loc[days, "Close"] if axes is above else [0] * len(days)
            axes.plot(days, heights, "^", color=ORANGE, markersize=6, clip_on=False, label=label)
            axes.legend(frameon=False)
    above.set(ylabel="close (index points)")
    above.yaxis.set_major_formatter("{x:,g}")
    below.set(ylabel="volume (shares)", xlabel="year", ylim=(0, None))
    return figure


def page(frame: pd.DataFrame, quarantine: pd.DataFrame, missing_days: pd.DatetimeIndex, title: str) -> str:
    """Return the page: counts, flags, values by column, the figures, the missing days and the bad rows.

    `quarantine` and `missing_days` are those of `contract.examine`. Style and pictures are inside the page.
    """
    days = pd.DatetimeIndex(missing_days).strftime("%Y-%m-%d")
    counts = {"good rows": len(frame), "bad rows": len(quarantine), "missing days": len(days)}
    counts |= {flag: int(frame[flag].sum()) for flag in FLAGS}
    meanings = {"bad rows": "in quarantine, below", "missing days": "the exchange traded, and no row has them", **FLAGS}
    facts = pd.DataFrame([(name, f"{count:,}", meanings.get(name, "")) for name, count in counts.items()])
    values = frame[COLUMNS].describe().T[["min", "50%", "max"]].rename(columns={"50%": "median"})
    values = values.map(lambda value: f"{value:,.2f}".removesuffix(".00")).rename_axis("column").reset_index()
    span = f"{frame.index[0]:%Y-%m-%d} to {frame.index[-1]:%Y-%m-%d}" if len(frame) else "no good row"
    parts = [
        f"<h1>{html.escape(title)}</h1><p>{span}</p>",
        _table(facts.set_axis(["what", "rows", "meaning"], axis=1), "text"),
        "<h2>Values</h2>",
        _table(values),
    ]
    if len(frame):
        share, close = shares_of_stale_opens(frame), frame["Close"]
        bars = (
            f"Bars, one a year: the share of stale opens is highest in {share.idxmax()} with {share.max():.1f} % of "
            f"the days and lowest in {share.idxmin()} with {share.min():.1f} %."
        )
        lines = (
            f"Two lines over the years. The close is between {close.min():,.2f} and {close.max():,.2f}, the volume "
            f"reaches {frame['Volume'].max():,}; marked are {counts['no_volume']} days without volume and "
            f"{counts['after_missing']} after missing days."
        )
        by_year = share.map("{:.1f}".format).rename("stale opens, % of days").reset_index()
        parts += ["<h2>Opens that equal the close before</h2>", _picture(stale_opens_by_year(frame), bars)]
        parts += [_table(by_year), "<h2>Closes and volumes</h2>", _picture(closes_and_volumes(frame), lines)]
    for flag in ("no_volume", "after_missing"):
        if counts[flag]:
            parts.append(f"<p>{flag}: {_listed(frame.index[frame[flag]].strftime('%Y-%m-%d'))}</p>")
    parts.append(f"<h2>Missing days</h2><p>{_listed(days) or 'none'}</p><h2>Bad rows</h2>")
    parts.append(_table(quarantine.head(MOST_ROWS).reset_index(), "text") if len(quarantine) else "<p>none</p>")
    if len(quarantine) > MOST_ROWS:
        parts.append(f"<p>and {len(quarantine) - MOST_ROWS:,} more in the quarantine file</p>")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _figure(height: float = 3) -> Figure:
    figure = Figure(figsize=(8, height))
    # By hand: a layout that measures each text takes as long as all the rest of a page
    figure.subplots_adjust(left=0.1, right=0.98, top=0.96, bottom=0.75 / height, hspace=0.2)
    return figure


def _picture(figure: Figure, alternative: str) -> str:
    buffer = io.BytesIO()
    with matplotlib.rc_context({"savefig.dpi": 100}):
        figure.savefig(buffer, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(alternative)}" src="data:image/png;base64,{data}"></p>'


def _table(frame: pd.DataFrame, kind: str = "") -> str:
    table: str = frame.to_html(index=False, border=0, classes=kind)  # which escapes texts
    return table


def _listed(days: pd.Index) -> str:
    return ", ".join(days[:MOST_ROWS]) + (f" and {len(days) - MOST_ROWS:,} more" if len(days) > MOST_ROWS else "")
