"""One process of a training on several: prints a digest of the weights it ends with. Started by test_train.py."""

from __future__ import annotations

import hashlib
import sys
from datetime import timedelta

import torch
from torch import distributed

from nas.train import Recipe, train_supernet
from tests.nas.tiny import SPACE, stripes


def _main() -> None:
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{sys.argv[1]}",
        rank=int(sys.argv[2]),
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    recipe = Recipe(largest_epochs=1, elastic_epochs=1, batch=24, learning_rate_per_256=0.5, subnetworks=2)
    # 51 samples: the last batch of 3 gives one process two and the other one.
    net = train_supernet(SPACE, stripes(train=51), recipe, device=torch.device("cpu"))
    weights = hashlib.sha256()
    for parameter in net.parameters():
        weights.update(parameter.detach().numpy().tobytes())
    print(weights.hexdigest())
    distributed.destroy_process_group()


_main()
