"""Choose the settings of the bundled model's profile by drags on tuning tasks: `python tools/tune_settings.py`.

Optuna draws settings (its TPE sampler) and stops poor ones early (successive halving: a third goes on at 6, 18 and all
tasks). Its journal is a file, so a search goes on where it was stopped and several processes can share it: start the
same command twice. Needs `pip install optuna`. Tasks have seeds from 820,000 on, which neither training nor ClayBench
draws. A setting is worth the share of its drags that succeed by the judge; where two succeed as often, the one nearer
to the truth inside the mask. `--write FILE` makes the table of all trials and runs none.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import torch

from dragnb import config, pipeline
from dragnb.clay import oracle, scene
from dragnb.clay import tasks as clay_tasks
from dragnb.store import Store, replacing

SEED = 820_000
RUNGS = (6, 18)  # numbers of tasks after which only the better third goes on
FIGURES = ("success", "gone", "moved", "oracle_distance", "residual_inside", "psnr_inside")
CHOICES = {
    "warp_inpaint": {
        "strength": (0.2, 0.3, 0.4, 0.5, 0.6),
        "near": (0.12, 0.25, 0.35, 0.5),
        "hold": (1.0, 2.0, 4.0, 8.0, 16.0),
        "lora_steps": (0, 40),
        "reference": (True, False),
        "drag_steps": (1,),
    },
    "clay": {
        "block": (2, 3),
        "strength": (0.5, 0.6, 0.7),
        "r1": (1, 2, 4),
        "r2": (3, 6),
        "drag_lr": (0.01, 0.02, 0.03),
        "lam": (0.1, 0.5, 1.0),
        "mask_on": ("now", "prev"),
        "lora_steps": (0, 40),
        "lora_lr": (5e-4, 1e-3),
        "stop": (1.0, 2.0),
    },
}


def worth(rows):
    """Share of successes less that of vanished parts (`gone`), with a tenth for each dB of PSNR inside the mask.

    Where a model lets hardly any drag succeed, the share of successes alone would be chance.
    """
    return float(np.mean([row["success"] - row["gone"] + row["psnr_inside"] / 10 for row in rows]))


def drag(task, model, settings, store):
    """The figures of one tuning task's edit."""
    result = pipeline.edit(task.task, model, settings, store)
    figures = oracle.figures(task, result.unpasted)
    return {name: float(figures[name]) for name in FIGURES} | {"iterations": len(result.states) - 1}


def evaluate(trial, tasks, model, store, profile):
    """One trial: settings drawn by Optuna, dragged task by task until all are done or the trial is stopped."""
    import optuna

    choices = CHOICES[profile].items()
    chosen = {name: trial.suggest_categorical(name, values) for name, values in choices}
    settings, rows = config.profile(profile, **chosen), []
    for k, task in enumerate(tasks):
        rows.append(drag(task, model, settings, store))
        trial.set_user_attr("tasks", len(rows))
        for name in rows[0]:
            trial.set_user_attr(name, float(np.nanmean([row[name] for row in rows])))
        trial.report(worth(rows), k + 1)
        if k + 1 in RUNGS and trial.should_prune():
            raise optuna.TrialPruned
    return worth(rows)


def study(journal, seed, profile, model, world):
    """The search for a model's profile on a world, its journal in a file; begun with the profile as it stands."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    Path(journal).parent.mkdir(parents=True, exist_ok=True)
    found = optuna.create_study(
        study_name=f"{profile} of {model} on world {world}", direction="maximize", load_if_exists=True,
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=20, multivariate=True),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=3),
    )  # fmt: skip
    if not found.trials:
        now = config.profile(profile).as_dict()
        found.enqueue_trial({name: now[name] for name, of in CHOICES[profile].items() if now[name] in of})
    return found


def write(found, path, profile):
    """The table of trials, best first: settings, tasks dragged, mean figures."""
    best = ("tasks", "success", "psnr_inside")
    dragged = [trial for trial in found.trials if trial.user_attrs]
    done = sorted(dragged, key=lambda trial: [-trial.user_attrs[name] for name in best])
    columns = ["trial", *CHOICES[profile], "tasks", *FIGURES, "iterations"]
    with replacing(path, ours=lambda place: False) as fresh, open(fresh, "w", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        for trial in done:
            figures = {name: f"{trial.user_attrs[name]:.5g}" for name in (*FIGURES, "iterations")}
            table.writerow(
                {"trial": trial.number, **trial.params, "tasks": trial.user_attrs["tasks"], **figures}
            )


def main(argv=None):
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", default="clay", help="name or folder of the model")
    p.add_argument("--profile", choices=CHOICES, default=config.suited("clay").profile, help="what is tuned")
    p.add_argument("--trials", type=int, default=60)
    p.add_argument("--tasks", type=int, default=60)
    p.add_argument("--world", type=int, default=scene.VERSION, help="version of the clay world")
    p.add_argument("--seed", type=int, default=0, help="of the sampler; give each process its own")
    p.add_argument("--out", type=Path, default=Path("outputs/tuning"), help="journal and stage cache")
    p.add_argument("--write", type=Path, help="only write the table of trials to this new CSV file")
    args = p.parse_args(argv)
    found = study(args.out / "journal.log", args.seed, args.profile, args.model, args.world)
    if args.write:
        return write(found, args.write, args.profile)
    torch.set_num_threads(1)
    tasks = clay_tasks.tasks(args.tasks, seed=SEED, version=args.world)
    store = Store(args.out / "cache")

    def show(_, trial):
        sys.stdout.write(f"{trial.number} {trial.state.name} {trial.user_attrs} {trial.params}\n")
        sys.stdout.flush()

    found.optimize(
        lambda trial: evaluate(trial, tasks, args.model, store, args.profile),
        n_trials=args.trials,
        callbacks=[show],
    )


if __name__ == "__main__":
    main()
