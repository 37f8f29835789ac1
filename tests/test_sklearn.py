"""samestep.sklearn: scikit-learn's own tests and checks, fits beside scikit-learn's, and what any estimator must do."""

import importlib.util
import inspect
import itertools
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
from sklearn import neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_multilabel_classification, make_regression
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import samestep as ss
from samestep import nn, optim
from samestep import sklearn as ours
from samestep.sklearn import MLPClassifier, MLPRegressor, NetClassifier, NetRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DOC = Path(__file__).parent.parent / "docs" / "sklearn.md"
UPSTREAM = {"test_gradient"}  # the reasons stand in docs/sklearn.md
DENSE, SPARSE = (f"check_sample_weight_equivalence_on_{kind}_data" for kind in ("dense", "sparse"))

X_iris, y_iris = load_iris(return_X_y=True)
X_digits, y_digits = load_digits(return_X_y=True)
X_digits, y_digits = X_digits[:300] / 16, y_digits[:300]
X_labels, y_labels = make_multilabel_classification(120, random_state=0)
X_numbers, y_numbers = make_regression(150, n_features=8, n_targets=3, random_state=0)
y_numbers /= 100
WEIGHTS = np.random.RandomState(0).rand(400)


def small(features, outputs):
    return nn.Sequential(nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, outputs))


# --- scikit-learn's own


def test_the_documented_failures_are_these():
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", DOC.read_text(), re.MULTILINE)
    assert {name for name, _ in rows} == UPSTREAM | {DENSE, SPARSE}
    assert all(len(reason) > 10 for _, reason in rows)


@pytest.mark.parametrize(
    "estimator, failing",
    [
        (MLPClassifier(max_iter=100), {DENSE, SPARSE}),
        (MLPRegressor(max_iter=100), {DENSE, SPARSE}),
        (NetClassifier(random_state=0), {DENSE}),
        (NetRegressor(epochs=100, random_state=0), {DENSE}),
    ],
    ids=lambda value: "" if isinstance(value, set) else type(value).__name__,
)
def test_check_estimator(estimator, failing):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {item["check_name"]: repr(item["exception"]) for item in found if item["status"] == "failed"}
    print(f"{type(estimator).__name__}: {sum(item['status'] == 'passed' for item in found)} checks passed")
    assert set(failed) == failing, failed


@pytest.mark.slow
def test_the_tests_of_scikit_learn(tmp_path):
    found = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    if found is None or not found.origin:
        pytest.skip("scikit-learn is installed without its tests")
    source = Path(found.origin).read_text()
    wanted = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
    assert wanted in source
    (tmp_path / "test_mlp.py").write_text(
        source.replace(wanted, "from samestep.sklearn import MLPClassifier, MLPRegressor")
    )
    (tmp_path / "conftest.py").write_text(
        "import pytest\n@pytest.fixture(params=[42])\ndef global_random_seed(request):\n    return request.param\n"
    )
    options = ["-q", "-rA", "--tb=short", "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={tmp_path}"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path / "test_mlp.py")],
        cwd=tmp_path, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    results = {
        word: set(re.findall(rf"^{word} .*?::(\S+)", run.stdout, re.MULTILINE))
        for word in ("PASSED", "FAILED", "ERROR")
    }
    print(f"scikit-learn's tests of its MLP: {len(results['PASSED'])} passed, {len(results['FAILED'])} failed")
    assert len(results["PASSED"]) > 40, run.stdout[-5000:]
    assert results["FAILED"] | results["ERROR"] == UPSTREAM, run.stdout[-5000:]


# --- beside scikit-learn's


SETTINGS = [
    {},
    {"alpha": 1.0, "batch_size": 64},
    {"learning_rate": "invscaling", "learning_rate_init": 0.05},
    {"learning_rate": "adaptive", "learning_rate_init": 0.05, "tol": 0.02, "n_iter_no_change": 1},
    {"early_stopping": True, "activation": "tanh"},
    {"activation": "logistic", "momentum": 0, "alpha": 0},
    {"activation": "identity", "nesterovs_momentum": False, "shuffle": False, "epsilon": 1e-3, "beta_2": 0.9},
]
TASKS = {
    "classes": ("MLPClassifier", {}, X_digits, y_digits),
    "two classes": ("MLPClassifier", {}, X_digits, y_digits > 4),
    "labels": ("MLPClassifier", {}, X_labels, y_labels),
    "numbers": ("MLPRegressor", {}, X_numbers, y_numbers),
    "one number": ("MLPRegressor", {}, X_numbers, y_numbers[:, 0]),
    "counts": ("MLPRegressor", {"loss": "poisson"}, X_numbers, np.abs(y_numbers)),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings)) or "defaults")
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("task", TASKS)
def test_fits_go_the_same_way(task, solver, settings, weighted):
    kind, loss, X, y = TASKS[task]
    arguments = {
        "max_iter": 12,
        "random_state": 3,
        "solver": solver,
        "hidden_layer_sizes": (20, 10),
        **settings,
        **loss,
    }
    weight = WEIGHTS[: len(X)] if weighted else None
    mine = getattr(ours, kind)(**arguments).fit(X, y, sample_weight=weight)
    other = getattr(theirs, kind)(**arguments).fit(X, y, sample_weight=weight)
    assert mine.n_iter_ == other.n_iter_ and mine.t_ == other.t_ and mine.out_activation_ == other.out_activation_
    np.testing.assert_allclose(mine.loss_curve_, other.loss_curve_, rtol=2e-5)
    for name in ("coefs_", "intercepts_"):
        for left, right in zip(getattr(mine, name), getattr(other, name), strict=True):
            assert left.shape == right.shape and left.dtype == right.dtype
            np.testing.assert_allclose(left, right, atol=2e-4)
    if settings.get("early_stopping"):
        np.testing.assert_allclose(mine.validation_scores_, other.validation_scores_, atol=0.01)
    np.testing.assert_allclose(mine.score(X, y), other.score(X, y), atol=0.01)
    names = {name for name in vars(other) if name.endswith("_") and not name.startswith("_")}
    assert names == {name for name in vars(mine) if name.endswith("_") and not name.startswith("_")}


@pytest.mark.parametrize("task", [name for name in TASKS if name != "numbers"])  # there the objectives differ
def test_lbfgs_goes_the_same_way(task):
    kind, loss, X, y = TASKS[task]
    arguments = {"max_iter": 8, "random_state": 3, "solver": "lbfgs", "hidden_layer_sizes": 12, "alpha": 0.1, **loss}
    mine = getattr(ours, kind)(**arguments).fit(X, y, sample_weight=WEIGHTS[: len(X)])
    other = getattr(theirs, kind)(**arguments).fit(X, y, sample_weight=WEIGHTS[: len(X)])
    assert mine.n_iter_ == other.n_iter_
    np.testing.assert_allclose(mine.loss_, other.loss_, rtol=1e-3)


def test_partial_fit_goes_the_same_way():
    mine, other = (kind(random_state=1, hidden_layer_sizes=9) for kind in (MLPClassifier, theirs.MLPClassifier))
    for size in (50, 120, 30, 300):  # a larger batch makes a new plan, which takes the optimizer's state over
        for estimator in (mine, other):
            estimator.partial_fit(X_digits[:size], y_digits[:size], classes=np.arange(10))
    np.testing.assert_allclose(mine.loss_curve_, other.loss_curve_, rtol=2e-5)
    np.testing.assert_allclose(mine.predict_proba(X_digits), other.predict_proba(X_digits), atol=1e-4)


def test_dense_and_sparse_and_dtypes():
    sparse = pytest.importorskip("scipy.sparse")
    one = MLPClassifier(max_iter=5, random_state=0).fit(X_digits, y_digits)
    two = MLPClassifier(max_iter=5, random_state=0).fit(sparse.csr_matrix(X_digits), y_digits)
    assert all(np.array_equal(left, right) for left, right in zip(one.coefs_, two.coefs_, strict=True))
    assert np.array_equal(one.predict_proba(sparse.csc_matrix(X_digits)), one.predict_proba(X_digits))


def test_values_put_into_coefs_count():
    model = (
        MLPRegressor((4,), max_iter=2, random_state=0) if False else MLPRegressor(hidden_layer_sizes=(4,), max_iter=2)
    )
    model.fit(X_numbers, y_numbers[:, 0])
    model.coefs_[-1][:] = 0
    model.intercepts_[-1][:] = 7
    assert (model.predict(X_numbers) == 7).all()


# --- what any estimator must do


EVERY = [
    MLPClassifier(max_iter=3, random_state=0),
    NetClassifier(small, epochs=3, random_state=0),
    NetClassifier(small, "bce_with_logits", epochs=3, random_state=0),
    MLPRegressor(max_iter=3, random_state=0),
    NetRegressor(small, epochs=3, random_state=0),
    NetRegressor(small, "huber", optim.SGD(0.01, momentum=0.9), epochs=3, random_state=0),
]


def of(estimator):
    return (X_digits, y_digits) if hasattr(estimator, "predict_proba") else (X_numbers, y_numbers)


@pytest.mark.parametrize(
    "estimator", EVERY, ids=lambda estimator: f"{type(estimator).__name__}-{getattr(estimator, 'loss', '')}"
)
def test_clone_pickle_and_partial_fit(estimator):
    X, y = of(estimator)
    one, two = clone(estimator), clone(estimator)
    assert np.array_equal(one.fit(X, y).predict(X), two.fit(X, y).predict(X))
    three = pickle.loads(pickle.dumps(one))
    assert np.array_equal(three.predict(X), one.predict(X))
    for model in (one, three):  # the optimizer's state is in the pickle
        model.partial_fit(X, y).partial_fit(X[:40], y[:40])
    assert np.array_equal(three.predict(X), one.predict(X))
    with pytest.raises(NotFittedError):
        clone(one).predict(X)


def test_grid_search_and_pipeline():
    pipeline = make_pipeline(StandardScaler(), NetClassifier(small, epochs=15, random_state=0))
    search = GridSearchCV(pipeline, {"netclassifier__lr": [1e-6, 1e-2], "netclassifier__batch_size": [16]}, cv=3)
    search.fit(X_iris, y_iris)
    assert search.best_params_["netclassifier__lr"] == 1e-2 and search.best_score_ > 0.9
    search = GridSearchCV(MLPClassifier(max_iter=30, random_state=0), {"alpha": [0.0, 1e3]}, cv=3, n_jobs=2)
    assert search.fit(X_digits, y_digits).best_params_ == {"alpha": 0.0}
    scores = cross_val_score(
        make_pipeline(StandardScaler(), NetRegressor(small, lr=1e-2, epochs=60, random_state=0)), X_numbers, y_numbers
    )
    assert scores.mean() > 0.8


def test_random_state_decides():
    def made(seed):
        return NetClassifier(small, epochs=1, random_state=seed).fit(X_iris, y_iris).predict_proba(X_iris)

    assert np.array_equal(made(1), made(1)) and not np.array_equal(made(1), made(2))
    ss.manual_seed(5)
    untouched = nn.Linear(2, 2).weight.data.copy()
    ss.manual_seed(5)
    made(1)
    assert np.array_equal(nn.Linear(2, 2).weight.data, untouched)


def test_labels_of_a_net_are_strings_and_several():
    names = np.array(["a", "b", "c"])[y_iris]
    model = NetClassifier(small, lr=0.01, epochs=40, random_state=0).fit(X_iris, names)
    assert model.score(X_iris, names) > 0.9 and list(model.classes_) == ["a", "b", "c"]
    np.testing.assert_allclose(model.predict_proba(X_iris).sum(axis=1), 1, rtol=1e-6)
    several = NetClassifier(small, lr=0.01, epochs=200, random_state=0).fit(X_labels, y_labels)
    assert several.predict(X_labels).shape == y_labels.shape and several.score(X_labels, y_labels) > 0.8
    binary = NetClassifier(small, "bce_with_logits", lr=0.01, epochs=60, random_state=0).fit(X_iris, y_iris > 0)
    assert binary.net_(X_iris[:3].astype(np.float32)).shape == (3, 1) and binary.score(X_iris, y_iris > 0) > 0.95


def test_images_and_a_given_network():
    images = X_digits.reshape(-1, 1, 8, 8)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    before = net.state_dict()
    model = NetClassifier(net, lr=0.01, epochs=15, random_state=0).fit(images, y_digits)
    assert model.score(images, y_digits) > 0.9
    assert all(np.array_equal(value, before[name]) for name, value in net.state_dict().items())


def test_early_stopping_and_warm_start():
    model = NetClassifier(small, lr=0.05, epochs=200, early_stopping=True, n_iter_no_change=3, random_state=0)
    model.fit(X_iris, y_iris)
    assert model.n_iter_ < 200 and len(model.history_["val_loss"]) == model.n_iter_
    warm = NetClassifier(small, epochs=2, warm_start=True, random_state=0).fit(X_iris, y_iris)
    warm.fit(X_iris, y_iris)
    straight = NetClassifier(small, epochs=4, random_state=0).fit(X_iris, y_iris)
    assert warm.n_iter_ == 4 and np.array_equal(warm.predict_proba(X_iris), straight.predict_proba(X_iris))


@pytest.mark.parametrize(
    "arguments",
    [
        {"activation": "elu"}, {"solver": "x"}, {"alpha": -1}, {"batch_size": 0}, {"learning_rate": "x"}, {"tol": -1},
        {"learning_rate_init": 0}, {"max_iter": 0}, {"shuffle": 1}, {"momentum": 2}, {"validation_fraction": 1.0},
        {"beta_1": 1.0}, {"epsilon": 0}, {"n_iter_no_change": 0}, {"max_fun": 0}, {"hidden_layer_sizes": (3, 0)},
        {"hidden_layer_sizes": (1.5,)}, {"max_iter": True}, {"alpha": float("nan")},
    ],
    ids=str,
)  # fmt: skip
def test_wrong_arguments_are_named(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        MLPClassifier(**arguments).fit(X_iris, y_iris)


@pytest.mark.parametrize(
    "arguments, error",
    [
        ({"epochs": -1}, ValueError), ({"batch_size": 0}, ValueError), ({"lr": -1}, ValueError), ({"net": 3}, TypeError),
        ({"net": lambda: 3}, TypeError), ({"validation_fraction": 0.0}, ValueError), ({"loss": "x"}, ValueError),
        ({"optimizer": "x"}, ValueError), ({"tol": -1}, ValueError), ({"warm_start": 2}, ValueError),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_arguments_of_nets(arguments, error):
    with pytest.raises(error):
        NetClassifier(**arguments).fit(X_iris, y_iris)


def test_classes_of_partial_fit():
    for kind in (MLPClassifier, NetClassifier):
        with pytest.raises(ValueError, match="classes must be passed"):
            kind().partial_fit(X_iris, y_iris)
        model = kind().partial_fit(X_iris[:60], y_iris[:60], classes=[0, 1, 2])
        with pytest.raises(ValueError, match="not the same"):
            model.partial_fit(X_iris, y_iris, classes=[0, 1])
        with pytest.raises(ValueError, match="not in"):
            model.partial_fit(X_iris[:3], [7, 8, 9])
    assert not hasattr(MLPRegressor(solver="lbfgs"), "partial_fit")
    with pytest.raises(ValueError, match="not negative"):
        MLPRegressor(loss="poisson").fit(X_iris, y_iris - 5.0)
    with pytest.raises(ValueError, match="y has the shape"):
        NetRegressor(nn.Linear(8, 2)).fit(X_numbers, y_numbers)


def test_arguments_are_those_of_scikit_learn():
    for name in ("MLPClassifier", "MLPRegressor"):
        mine, other = (inspect.signature(getattr(module, name)).parameters for module in (ours, theirs))
        for left, right in itertools.zip_longest(mine.values(), other.values()):
            assert (left.name, left.default, left.kind) == (right.name, right.default, right.kind)
