"""What the parts of the method are worth: the same training with and without them, over seeds.

`make ablation ARGS='demo --data SHARDS'`, see --help. A study that was cut off goes on with the
same command: trainings resume, and scores that are known are read from disk.
"""

import inspect
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict

import _checkout  # noqa: F401
import pandas as pd
import torch
from ablation_parts.costs import Costs, costs_table, measure_costs
from ablation_parts.evidence import Gain, all_gains, as_rows, gains_figure, gains_table, means_table
from ablation_parts.options import (
    AblationOptions,
    chosen_variants,
    seeds_of,
    with_absolute_places,
)
from ablation_parts.trainings import list_jobs, run_all
from ablation_parts.variants import Variant

from pipelines.ray_runtime import cluster
from pipelines.tracking import links
from pipelines.tracking.background import describe, mirrored
from pipelines.tracking.evaluations import forget_other
from sddusr import storage as places
from sddusr.cli import command_line
from sddusr.config import PRESETS, flatten, to_dict
from sddusr.data.dataset import ShardSet
from sddusr.runs.run_folder import RunFolder

log = logging.getLogger(__name__)


def run_ablation(options: AblationOptions) -> str:
    """Train, score and compare; the tables as text.

    Raises:
        ValueError, OSError: options or data that cannot be used.
    """
    options = with_absolute_places(options)
    chosen = chosen_variants(options)
    for place in options.tests + options.tests_as_given:
        ShardSet(place).close()
    cluster.init_ray()
    parent, uri = RunFolder(options.out), str(options.tracking_uri)
    seeds = {"seeds": options.seeds, "first_seed": options.first_seed}
    about = {"study": options.study, "only": " ".join(options.only), **seeds}
    params = about | flatten(to_dict(options.config))
    params = {name: str(value) for name, value in params.items()}
    forget_other(parent, params)
    describe(
        parent,
        uri,
        name=f"ablation {options.study} {options.preset}",
        experiment=options.experiment,
        params=params,
        tags={"sddusr.data": str(options.data), "sddusr.preset": options.preset},
    )
    with mirrored(parent, uri) as background:
        rows = run_all(options, list_jobs(chosen, seeds_of(options)), background.run_id)
        costs = _costs(options, chosen) if options.costs else []
        return _write(options, chosen, pd.DataFrame(rows), costs, parent)


def _costs(options: AblationOptions, chosen: Sequence[Variant]) -> list[Costs]:
    """Of each variant's first training, on this machine's processor."""
    log.info("measuring what each network costs")
    return [
        measure_costs(
            each.name,
            places.join(options.out, f"{each.weights_of or each.name}-seed{options.first_seed}"),
            (options.tests_as_given if each.as_given else options.tests)[0],
            not each.config.model.mask.mask_keys,
            options.precision,
            torch.get_num_threads(),
        )
        for each in chosen
    ]


def _write(
    options: AblationOptions,
    chosen: Sequence[Variant],
    scores: pd.DataFrame,
    costs: Sequence[Costs],
    parent: RunFolder,
) -> str:
    """Tables, figure and the scores themselves, on disk and in MLflow."""
    gains = all_gains(scores, chosen)
    text = _text(options, chosen, scores, gains)
    if costs:
        text += f"\n{costs_table(costs)}"
    parquet = io.BytesIO()
    scores.to_parquet(parquet)
    files = {
        "ablation.md": text.encode(),
        "scores.parquet": parquet.getvalue(),
        "scores.csv": scores.to_csv(index=False).encode(),
        "gains.json": json.dumps(as_rows(gains), indent=1).encode(),
    }
    for over in dict.fromkeys(each.over for each in gains):
        if (figure := gains_figure(gains, over)) is not None:
            files[f"gains-over-{over}.png"] = figure
    for name, content in files.items():
        place = places.join(options.out, name)
        places.write_atomic(place, content)
    parent.link_artifacts({name: places.join(options.out, name) for name in files})
    parent.log_metrics(
        0,
        {f"{g.test}/{g.variant}/{g.column}_over_{g.over}": g.interval.mean for g in gains}
        | {
            f"costs/{c.variant}/{name}": value for c in costs for name, value in _numbers(c).items()
        },
    )
    return text


def _numbers(costs: Costs) -> dict[str, float]:
    return {name: value for name, value in asdict(costs).items() if name != "variant"}


def _text(
    options: AblationOptions,
    chosen: Sequence[Variant],
    scores: pd.DataFrame,
    gains: Sequence[Gain],
) -> str:
    train, num = options.config.train, scores.groupby("test")["id"].nunique()
    pictures = ", ".join(f"{test} {count}" for test, count in num.items())
    about = (
        f"Preset {options.preset}, {train.num_steps} steps of {train.batch_size} crops of "
        f"{options.config.data.crop_px} LR pixels, seeds {', '.join(map(str, seeds_of(options)))}; "
        f"protocol {options.protocol}, tested in {options.precision}; test pictures: {pictures}; "
        f"code {links.code_version()}. ± is the standard deviation over seeds; brackets are "
        f"95 % intervals, pictures and seeds resampled independently."
    )
    return f"{about}\n\n{means_table(scores, chosen)}\n{gains_table(gains)}"


def main(options: AblationOptions) -> None:
    text = run_ablation(options)
    print(f"\n{text}\ntables  {options.out}\nMLflow  {links.how_to_look(options.tracking_uri)}")


def command() -> None:
    """Parse the command line; the first word names the preset, `demo` where there is none."""
    presets = {
        name: AblationOptions(preset=name, config=config)
        for name, (_, config) in PRESETS.items()
        if config.model.mask.enabled and config.model.dictionary.enabled
    }
    described = {name: PRESETS[name][0] for name in presets}
    description = inspect.cleandoc(str(AblationOptions.__doc__))
    command_line.run_with_presets(main, presets, described, description)


if __name__ == "__main__":
    from ablation import command as imported_command  # by name, so that Ray pickles by reference

    imported_command()
