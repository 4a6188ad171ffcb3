"""One process of a training on several: prints a digest of the weights it ends with. test_train.py has torchrun
start them.
"""

from __future__ import annotations

import sys

import torch

from nas.processes import together
from nas.train import Recipe, train_supernet
from tests.nas.tiny import SPACE, stripes


def _main() -> None:
    cpu = torch.device("cpu")
    recipe = Recipe(largest_epochs=1, elastic_epochs=1, batch=24, learning_rate_per_256=0.5, subnetworks=2)
    with together(cpu):
        # 51 samples: the last batch of 3 gives one process two and the other one.
        net = train_supernet(SPACE, stripes(train=51), recipe, device=cpu)
    sys.stdout.write(f"{net.digest()}\n")  # in one piece: all processes write to one pipe


_main()
