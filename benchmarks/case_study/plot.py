"""The figures as pictures: what each severity does to both forms, and one bad day minute by minute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.case_study.plan import SEVERITIES
from benchmarks.case_study.report import Lane, Summary

COLOURS = {"naive": "#d1495b", "capataz": "#00798c"}
SHADE = "#e8e2d0"
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "case study", "font.family": "sans-serif", "font.size": 10}
"""Text stays text, and the same figures give the same bytes."""
SHOWN = "middle"
"""The severity whose day is drawn."""


def draw(lanes: Sequence[Lane], summaries: Sequence[Summary], folder: Path) -> list[Path]:
    """Draw both pictures into `folder`; returns the files."""
    with mpl.rc_context(STYLE):
        pictures = {"case-study-severities.svg": _severities(summaries), "case-study-day.svg": _day(lanes)}
        for name, picture in pictures.items():
            picture.savefig(folder / name, metadata={"Date": None}, dpi=150)
    return [folder / name for name in pictures]


def _severities(summaries: Iterable[Summary]) -> Figure:
    """Failed runs and P95 over the severities."""
    summaries = list(summaries)
    severities = [severity for severity in SEVERITIES if any(one.severity == severity for one in summaries)]
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    failed, slow = figure.subplots(1, 2)
    for form, colour in COLOURS.items():
        own = {one.severity: one for one in summaries if one.form == form}
        failed.plot(severities, [own[severity].failed * 100 for severity in severities], "o-", color=colour, label=form)
        slow.plot(severities, [own[severity].p95 for severity in severities], "o-", color=colour, label=form)
    failed.set(title="Failed runs, %", xlabel="faults", ylim=(-3, 103))
    slow.set(title="P95 of all runs, seconds", xlabel="faults", yscale="log", ylim=(0.5, 100))
    _plain_seconds(slow)
    for axes in (failed, slow):
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
    return figure


def _day(lanes: Iterable[Lane]) -> Figure:
    """Every run of both forms over its arrival, the windows shaded."""
    shown = {lane.form: lane for lane in lanes if lane.plan.severity == SHOWN}
    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    rows = figure.subplots(len(COLOURS), 1, sharex=True)
    for axes, (form, colour) in zip(rows, COLOURS.items(), strict=True):
        lane = shown[form]
        for number, window in enumerate(lane.plan.windows):
            axes.axvspan(window.begins, window.ends, color=SHADE, alpha=0.8 if "primary-*" in window.models else 0.4, lw=0)
            if axes is rows[0]:
                axes.annotate(f"{number + 1}", ((window.begins + window.ends) / 2, 90), ha="center", va="center")
        good = [run for run in lane.runs if not run.verdict.fault]
        bad = [run for run in lane.runs if run.verdict.fault]
        # Thousands of points as shapes would make a file of a megabyte.
        axes.plot(
            [run.at for run in good], [run.seconds for run in good], ".", color=colour, ms=3, rasterized=True, label=f"{form}: answered"
        )
        axes.plot([run.at for run in bad], [run.seconds for run in bad], "x", color="black", ms=4, rasterized=True, label=f"{form}: failed")
        axes.set(yscale="log", ylim=(0.03, 150), xlim=(0, lane.plan.seconds), ylabel="seconds")
        _plain_seconds(axes)
        axes.legend(frameon=False, loc="lower right" if axes is rows[0] else "upper right", ncols=2)  # where nothing is drawn
    windows = "   ".join(f"{number + 1}: {window.what}" for number, window in enumerate(shown["naive"].plan.windows))
    rows[-1].set_xlabel(f"arrival, seconds since the beginning; {SHOWN} severity")
    figure.suptitle(_wrapped(windows), fontsize=8)
    return figure


def _plain_seconds(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _wrapped(windows: str) -> str:
    """The names of the windows on as many lines as they need."""
    lines, line = [], ""
    for part in windows.split("   "):
        if len(line) + len(part) > 130:
            lines.append(line)
            line = ""
        line = f"{line}     {part}" if line else part
    return "\n".join([*lines, line])
