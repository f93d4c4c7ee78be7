"""What predictors.py writes: tables beside what others reported, and the learning curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pbkv.analysis.intervals import mean_interval
from pbkv.analysis.style import FAINT, new_figure, save
from pbkv.analysis.table import markdown
from pbkv.paper.published import ACCURACY, BY_SIZE, NETWORKS, PROBES
from pbkv.predict.accuracy import Accuracy

Runs = Sequence[Mapping[str, Sequence[Accuracy]]]

# arXiv 2605.06472: top-1 accuracy 1, 2, 3 steps ahead; by training workflows steps 1 and 3 alone.
PAPER = {**ACCURACY, **NETWORKS, **PROBES}
NAMES = ("graph", "GRU", *NETWORKS, *PROBES, "markov:1", "markov:2", "markov:3")
PAPER_CURVE = {
    step: {size: found[index] for size, found in BY_SIZE.items()} for index, step in enumerate((1, 3))
}
# The real sets' own description: 5-fold next-agent accuracy of a back-off Markov predictor of order 1 / 3.
DESCRIBED = {
    "tau2_bench": (0.54, 0.72),
    "marble_db_star": (0.83, 0.84),
    "magentic_one_gaia": (0.86, 0.87),
    "tapeagents_gaia": (0.60, 0.64),
    "claude_code_weka": (0.96, 0.97),
}
_COLORS = {1: "#0072B2", 2: "#009E73", 3: "#D55E00"}


def hover_table(runs: Runs, num_steps: int) -> str:
    rows = []
    for name in NAMES:
        steps = range(num_steps)
        paper = [f" ({value:.3f})" for value in PAPER[name]] if name in PAPER else [""] * num_steps
        rows.append(
            [name]
            + [f"{mean(runs, name, k, 'top1')}{paper[k]}" for k in steps]
            + [mean(runs, name, k, "brier") for k in steps]
            + [mean(runs, name, k, "calibration_error") for k in steps]
        )
    return markdown(_header("", num_steps), rows)


def order_of_rows(runs: Runs, step: int) -> str:
    """The paper's rows from best to worst, ours and theirs, with what separates neighbours of ours."""
    ours = {name: np.array([run[name][step].top1 for run in runs]) for name in PAPER}
    by_ours = sorted(ours, key=lambda name: -ours[name].mean())
    by_paper = sorted(PAPER, key=lambda name: -PAPER[name][step])
    rows = []
    for place, (name, paper) in enumerate(zip(by_ours, by_paper, strict=True)):
        ahead = mean_interval(ours[by_ours[place - 1]] - ours[name]) if place else None
        gap = (
            "" if ahead is None else f"{ahead.mean:.3f} ± {ahead.half:.3f}" if ahead.half is not None else ""
        )
        rows.append(
            [str(place + 1), f"{name} {ours[name].mean():.3f}", gap, f"{paper} {PAPER[paper][step]:.3f}"]
        )
    return markdown(["", "here", "behind the row above, seed by seed", "paper"], rows)


def real_table(real: Mapping[str, Runs], num_steps: int) -> str:
    """Top-1 by step as the mean over folds ± half its 95 % interval, what was described, and who wins."""
    others = [f"{name}, hash" for name in ("GRU", *NETWORKS)]
    names = ("graph, hash", "graph, none", *others, "markov:1", "markov:3")
    rows = []
    for title, folds in real.items():
        for name in (name for name in names if name in folds[0]):
            described = {"markov:1": DESCRIBED[title][0], "markov:3": DESCRIBED[title][1]}.get(name)
            rows.append(
                [title if name == names[0] else "", name]
                + [mean(folds, name, k, "top1") for k in range(num_steps)]
                + [spread(folds, name), f"{described:.2f}" if described else ""]
                + [mean(folds, name, 0, measure) for measure in ("brier", "calibration_error")]
            )
    steps = [f"step {k + 1}" for k in range(num_steps)]
    header = ["", "predictor", *steps, "folds, step 1", "described", "Brier 1", "ECE 1"]
    return markdown(header, rows) + "\n\n" + verdicts(real)


def verdicts(real: Mapping[str, Runs]) -> str:
    """One line a set: the paired difference of the network and Markov of order 3, fold by fold."""
    lines = []
    for title, folds in real.items():
        gains = np.array([fold["graph, hash"][0].top1 - fold["markov:3"][0].top1 for fold in folds])
        interval = mean_interval(gains)
        assert interval is not None and interval.half is not None  # noqa: PT018 - five folds
        if interval.mean > interval.half:
            said = "the network wins"
        elif -interval.mean > interval.half:
            said = "Markov wins"
        else:
            said = "no difference that five folds could show"
        numbers = f"{interval.mean:+.3f} ± {interval.half:.3f}"
        lines.append(f"- {title}: network − Markov-3 at step 1 {numbers}: {said}.")
    return "\n".join(lines)


def draw_curve(curves: Mapping[int, Runs], target: Path) -> None:
    """Accuracy by training workflows: ours, the paper's, and Markov of order 3."""
    sizes = list(curves)
    with new_figure(4.6, "Accuracy by number of training workflows", _SUBTITLE) as figure:
        axes = figure.subplots()
        for k, color in _COLORS.items():
            means = [np.mean([run["graph"][k - 1].top1 for run in curves[size]]) for size in sizes]
            counted = [np.mean([run["markov:3"][k - 1].top1 for run in curves[size]]) for size in sizes]
            axes.plot(sizes, means, color=color, marker="o", label=f"graph, step {k}")
            axes.plot(sizes, counted, color=color, linestyle=":", label=f"Markov-3, step {k}")
            if k in PAPER_CURVE:
                paper = PAPER_CURVE[k]
                axes.plot(list(paper), list(paper.values()), "x", color=color, label=f"paper, step {k}")
        axes.set_xlabel("training workflows")
        axes.set_ylabel("top-1 accuracy")
        axes.grid(axis="y")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), labelcolor=FAINT)
        save(figure, target)


_SUBTITLE = "HoVer-like, 500 test workflows, mean over seeds · crosses: the paper's figure, read off"


def write_report(
    path: Path,
    *,
    sizes: Sequence[int],
    seeds: Sequence[int],
    hover: str,
    order: str,
    real: str,
    costs: Mapping[str, float],
    cpu_s: float,
) -> None:
    training, stopping, test = sizes
    cost_rows = [[name, f"{cost:.1f}"] for name, cost in costs.items()]
    cost_table = markdown(["", "µs"], cost_rows)
    path.write_text(
        f"""# Predictors, measured

Made by `python bench/predictors.py` in {cpu_s / 60:.0f} minutes of processor time; every number is in
predictors.json.
What the predictors are stands in [predictors.md](../../predictors.md).

## HoVer-like

{training:,} workflows to train on, {stopping} that stop the training, {test} to test; mean ± 95 % over
{len(seeds)} traces (seeds {", ".join(map(str, seeds))}), in brackets the paper's (arXiv 2605.06472). Step k
counts calls whose workflow was alive before it, END being an outcome. Brier score from 0 to 2; ECE = expected
calibration error, ten bins. The generator was fitted to the Markov and graph rows of the paper, no other.

{hover}

`rgcn` is `pbkv train --kind rgcn`; GRU, Transformer, TCN and MLP are in bench/rivals.py and learn in the
same loop with the same early stopping. Only their names are the paper's: it does not say what they are.

### Order of the paper's rows, one step ahead

{order}

![Learning curve](learning_curve.png)

## Real traces

Five folds by workflow, mean over folds ± 95 %. They have no context vectors: `hash` are features of the
prompt, `none` is agent and history alone. A tenth of the workflows stops the network's training; Markov
learns from those too. "described": what came with the data, of other folds and with the start as an agent.

{real}

## What a forecast costs

Microseconds of processor time a call on the machine that made this, HoVer-like, ends of workflows included,
best of five rounds.

{cost_table}
"""
    )


def mean(runs: Runs, name: str, step: int, measure: str) -> str:
    values = np.array([getattr(run[name][step], measure) for run in runs])
    interval = mean_interval(values[np.isfinite(values)])
    if interval is None:
        return "–"
    return f"{interval.mean:.3f}" + ("" if interval.half is None else f" ± {interval.half:.3f}")


def spread(runs: Runs, name: str) -> str:
    values = [run[name][0].top1 for run in runs]
    return f"{min(values):.2f} to {max(values):.2f}"


def _header(first: str, num_steps: int) -> list[str]:
    return [first] + [f"{name} {k + 1}" for name in ("top-1", "Brier", "ECE") for k in range(num_steps)]
