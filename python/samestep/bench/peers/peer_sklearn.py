"""scikit-learn's MLPClassifier, an extra for networks of Linear and ReLU with SGD: partial_fit on one batch is one step."""

from __future__ import annotations

import warnings
from typing import Any

import child
import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier
from workloads import CLASSES, SGD, data


def build(setting: child.Setting) -> Any:
    workload = setting.workload
    warnings.simplefilter("ignore")
    x, y = data(workload)
    net = MLPClassifier(
        workload.widths[1:-1],
        solver="sgd",
        learning_rate_init=SGD["lr"],
        momentum=SGD["momentum"],
        nesterovs_momentum=False,
        alpha=0.0,
        batch_size=workload.batch,
        random_state=0,
    )
    classes = np.arange(CLASSES)

    def steps(n: int) -> float:
        for _ in range(n):
            net.partial_fit(x, y, classes=classes)
        return float(net.loss_)

    return sklearn.__version__, steps, {}


if __name__ == "__main__":
    child.serve(build)
