"""What other tools call the options of a run."""

from __future__ import annotations

from collections.abc import Mapping

# word -> last part of the key here
SYNONYMS: Mapping[str, str] = {
    "lr": "learning_rate",
    "rate": "learning_rate",
    "batch": "batch_size",
    "batchsize": "batch_size",
    "bs": "batch_size",
    "wd": "weight_decay",
    "decay": "weight_decay",
    "l2": "weight_decay",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "num_workers": "workers",
    "threads": "workers",
    "optim": "optimizer",
    "sched": "schedule",
    "scheduler": "schedule",
    "lr_scheduler": "schedule",
    "patience": "early_stopping",
    "amp": "precision",
    "fp16": "precision",
    "grad_clip": "clip_norm",
    "arch": "backbone",
    "network": "backbone",
    "net": "backbone",
    "aug": "augmentation",
    "size": "image_size",
    "img_size": "image_size",
    "imgsz": "image_size",
    "resolution": "image_size",
    "imbalance": "imbalance_ratio",
    "val_split": "validation_share",
    "test_split": "test_share",
    "random_state": "seed",
    "checkpoint": "checkpoint_every",
    "criterion": "loss",
}
DEVICE = "say --device cuda (or cpu, mps) on the command line, device='cuda' in Python"
OUT = "say --out FOLDER on the command line, out=FOLDER in Python"
# word -> how to say what is no option of a run
NOT_OF_A_RUN: Mapping[str, str] = {
    "device": DEVICE,
    "gpu": DEVICE,
    "cuda": DEVICE,
    "out": OUT,
    "output": OUT,
    "output_dir": OUT,
    "resume": "say --resume --out RUN",
    "seeds": "say --seeds 3 for three of them, or seed=1 for one",
}
