"""What a trained network is, in a page of Markdown for whoever finds it."""

from sddusr.checkpoint import FOLDER
from sddusr.runs.inputs import read_inputs
from sddusr.runs.run_folder import ModelEntry, RunFolder

SHOWN_PARAMS = (
    "model.dim",
    "model.dictionary.num_tokens",
    "losses.stage",
    "optim.lr",
    "train.num_steps",
    "train.batch_size",
    "train.seed",
)
"""Of the config; MLflow lists the others."""


def describe_model(run: RunFolder, entry: ModelEntry) -> str:
    """A card: what the network takes and gives, what it was trained on, how well it did."""
    config, inputs = run.config(), read_inputs(run)
    params = config.params if config else {}
    step = entry.tags.get("sddusr.checkpoint", "")
    lines = [
        "Makes a wide-angle image twice as large with the help of a telephoto image of a part of "
        "it (SDDuSR). `wide` and `tele` are RGB, 8 bits; `box` is the position of `tele` in the "
        "result (y0, y1, x0, x1), and where it is left out, `tele` is found in `wide`.",
        "",
    ]
    if config is not None:
        lines.append(f"- Run: {config.name}, checkpoint {step}")
    if commit := (config.source.get("sddusr.commit") if config else ""):
        lines.append(f"- Code: {commit}")
    for data in inputs.datasets:
        lines.append(f"- Data, {data.split}: {data.num_rows} rows of {data.digest[:12]}")
    shown = [f"{key.rpartition('.')[2]} {params[key]}" for key in SHOWN_PARAMS if key in params]
    if shown:
        lines.append(f"- Config: {', '.join(shown)}")
    scores = _scores(run, step)
    if scores:
        lines += ["", "| validation | value |", "|---|---|"]
        lines += [f"| {key} | {value:.4g} |" for key, value in scores.items()]
    return "\n".join(lines) + "\n"


def _scores(run: RunFolder, checkpoint: str) -> dict[str, float]:
    """What the validation of the checkpoint's step measured."""
    match = FOLDER.fullmatch(checkpoint)
    if match is None or int(match[1]) not in run.segments():
        return {}
    rows = run.read_segment(int(match[1]))
    found = {key: value for row in rows for key, value in row.items()}
    return {key: value for key, value in sorted(found.items()) if key.startswith("val/")}
