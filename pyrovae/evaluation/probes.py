"""What can be read off the posterior mean by simple classifiers."""

import warnings

import numpy as np
import torch
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

NUM_NEIGHBOURS = 5
MAX_ITERATIONS = 1000


def probe_correct(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> dict[str, Tensor]:
    """Whether classifiers fitted to training features (M, D) name the class of each test row (N, D), by classifier.

    `knn`, the five nearest neighbours' vote, and `linear`, logistic regression, on features standardised by the
    training ones. With one training class both say that class.

    Returns:
        Zeros and ones (N,), by name.
    """
    features, classes = _array(train), _array(train_labels)
    neighbours = KNeighborsClassifier(min(NUM_NEIGHBOURS, len(classes)))
    linear = LogisticRegression(max_iter=MAX_ITERATIONS)
    found = {}
    for name, classifier in (("knn", neighbours), ("linear", linear)):
        one_class = len(np.unique(classes)) < 2
        probe = make_pipeline(StandardScaler(), DummyClassifier(strategy="prior") if one_class else classifier)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a step short of the optimum is no news
            probe.fit(features, classes)
        right = probe.predict(_array(test)) == _array(test_labels)
        found[name] = torch.from_numpy(right).double()
    return found


def _array(values: Tensor) -> np.ndarray:
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()
