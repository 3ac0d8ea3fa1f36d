"""Statistics against published examples, scipy, and simulated boards with known truth."""

from __future__ import annotations

import importlib

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs as sp
from scipy import stats

from .conftest import make_run

ranking = importlib.import_module("fusebench.leaderboard.ranking")
intervals = importlib.import_module("fusebench.leaderboard.intervals")
scoring = importlib.import_module("fusebench.leaderboard.scores")
significance = importlib.import_module("fusebench.leaderboard.significance")

# Demšar 2006, table 6: AUC of C4.5 with and without tuned m and cf on 14 datasets.
DEMSAR = pd.DataFrame(
    [
        (0.763, 0.768, 0.771, 0.798), (0.599, 0.591, 0.590, 0.569), (0.954, 0.971, 0.968, 0.967),
        (0.628, 0.661, 0.654, 0.657), (0.882, 0.888, 0.886, 0.898), (0.936, 0.931, 0.916, 0.931),
        (0.661, 0.668, 0.609, 0.685), (0.583, 0.583, 0.563, 0.625), (0.775, 0.838, 0.866, 0.875),
        (1.000, 1.000, 1.000, 1.000), (0.940, 0.962, 0.965, 0.962), (0.619, 0.666, 0.614, 0.669),
        (0.972, 0.981, 0.9752, 0.975), (0.957, 0.978, 0.946, 0.970),
    ],
    columns=["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"],
)  # fmt: skip


def scores_of(rows: pd.DataFrame, manifest: dict) -> object:  # type: ignore[type-arg]
    names = list(manifest["methods"])
    metrics = list(dict.fromkeys(rows["metric"]))
    directions = {m: manifest["metrics"][m]["direction"] for m in metrics}
    return scoring.Scores.from_rows(rows, names, metrics, directions)


def demsar_scores() -> object:
    long = DEMSAR.rename_axis("case").reset_index().melt("case", var_name="method")
    long = long.assign(dataset="uci", group=long["case"].map("{:02d}".format), metric="auc", status="ok")
    long["case"] = long["group"]
    return scoring.Scores.from_rows(long, list(DEMSAR), ["auc"], {"auc": "higher"})


def test_demsar_average_ranks() -> None:
    table = ranking.rank(demsar_scores()).table
    published = {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}
    assert table["average"].round(3).to_dict() == published
    assert list(table["position"]) == [1, 2, 3, 4]


def test_demsar_friedman_and_iman_davenport() -> None:
    test = significance.friedman(DEMSAR)
    # The paper leaves ties uncorrected; its tied ranks are 3 pairs and one quadruple.
    ties = (3 * (2**3 - 2) + (4**3 - 4)) / (14 * (4**3 - 4))
    chi2 = test.chi2 * (1 - ties)
    assert chi2 == pytest.approx(9.28, abs=0.005)
    assert 13 * chi2 / (14 * 3 - chi2) == pytest.approx(3.69, abs=0.005)
    assert test.f == pytest.approx(13 * test.chi2 / (14 * 3 - test.chi2))
    assert test.p == pytest.approx(stats.f.sf(test.f, 3, 39))


def test_demsar_groups() -> None:
    # The paper's groups are of Nemenyi's test, which only this example needs.
    p = sp.posthoc_nemenyi_friedman(DEMSAR.to_numpy())
    p = p.set_axis(list(DEMSAR), axis=0).set_axis(list(DEMSAR), axis=1)
    # "At p = 0.10 ... C4.5 is significantly worse than C4.5+m and C4.5+m+cf", and nothing else differs.
    below = {frozenset((a, b)) for a in p for b in p if p.loc[a, b] < 0.10}
    assert below == {frozenset(("C4.5", "C4.5+m")), frozenset(("C4.5", "C4.5+m+cf"))}
    order = ["C4.5+m+cf", "C4.5+m", "C4.5+cf", "C4.5"]
    assert significance.cliques(order, p, 0.10) == [tuple(order[:3]), tuple(order[2:])]
    assert significance.letters(order, p, 0.10) == dict(zip(order, ("a", "a", "ab", "b"), strict=True))


def test_wilcoxon_agrees_with_the_published_r_example() -> None:
    # Hollander & Wolfe 1973, p. 29, as in R's help of wilcox.test (paired): V = 40, p = 0.03906 two-sided.
    x = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
    y = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
    p = significance.pairwise_wilcoxon(pd.DataFrame({"x": x, "y": y}))
    assert p.loc["x", "y"] == pytest.approx(0.0390625)


def test_holm_multiplies_in_order() -> None:
    rng = np.random.default_rng(1)
    blocks = pd.DataFrame(rng.normal((0, 0.4, 1.5), size=(20, 3)), columns=list("abc"))
    raw = {k: stats.wilcoxon(blocks[k[0]], blocks[k[1]]).pvalue for k in ("ab", "ac", "bc")}
    expected, worst = {}, 0.0
    for i, (pair, p) in enumerate(sorted(raw.items(), key=lambda item: item[1])):
        worst = max(worst, min(1.0, (3 - i) * p))
        expected[pair] = worst
    adjusted = significance.pairwise_wilcoxon(blocks)
    for pair, p in expected.items():
        assert adjusted.loc[pair[0], pair[1]] == adjusted.loc[pair[1], pair[0]] == pytest.approx(p)


def test_tied_differences_agree_with_scipy() -> None:
    d = np.array([1.0, 1.0, -1.0, 2.0, 3.0, 3.0, 0.0])
    p = significance.pairwise_wilcoxon(pd.DataFrame({"x": d, "y": np.zeros(7)})).loc["x", "y"]
    assert p == pytest.approx(stats.wilcoxon(d).pvalue)
    assert p != pytest.approx(stats.wilcoxon(d, method="asymptotic").pvalue, abs=0.01)


def test_equal_methods_do_not_differ() -> None:
    p = significance.pairwise_wilcoxon(pd.DataFrame({"a": [1.0] * 9, "b": [1.0] * 9, "c": np.arange(9.0)}))
    assert p.loc["a", "b"] == 1 and (np.diag(p) == 1).all()


def coverage(subjects: int, effects: np.ndarray, boards: int) -> float:
    """Share of rank intervals that hold the true expected rank, over simulated boards."""
    rng = np.random.default_rng(subjects)
    metrics = 3
    # With unit normal noise a method beats another with probability Phi(difference / sqrt 2).
    beaten = stats.norm.cdf((effects[None, :] - effects[:, None]) / np.sqrt(2))
    truth = 0.5 + beaten.sum(axis=1)
    hits = []
    for board in range(boards):
        values = effects[:, None, None] + rng.normal(size=(len(effects), subjects, metrics))
        # Difficulty is common to all methods and must not matter.
        values += rng.normal(scale=3, size=(1, subjects, metrics))
        names = tuple(str(i) for i in range(max(subjects, 9)))
        scores = scoring.Scores(
            names[: len(effects)], names[:subjects], tuple("xyz"), ("higher",) * 3, names[:subjects],
            np.arange(subjects), values, np.ones((subjects, metrics), bool), np.ones(values.shape, bool),
        )  # fmt: skip
        r = scores.subject_ranks
        low, high, _ = intervals.bootstrap_mean(r.T, np.ones_like(r.T), resamples=999, seed=board)
        hits.append((low <= truth) & (truth <= high))
    return float(np.mean(hits))


@pytest.mark.parametrize("subjects", [8, 30])
def test_rank_interval_covers_the_truth(subjects: int) -> None:
    assert 0.90 <= coverage(subjects, np.array([0.0, 0.2, 0.4, 0.8, 1.2]), 500) <= 0.98


def test_known_effects_come_out_in_order() -> None:
    effects = {f"m{i}": 0.8 * i for i in range(6)}
    result = ranking.rank(scores_of(*make_run(effects, cases=40)))
    assert result.order == ["m5", "m4", "m3", "m2", "m1", "m0"]
    assert (result.table["best"] <= result.table["position"]).all()
    assert (result.table["position"] <= result.table["worst"]).all()
    assert result.leave_one_out["tau"].min() > 0.9
    assert result.positions.sum(axis=1).to_numpy() == pytest.approx(1)
    assert result.p.loc["m5", "m0"] < 0.05


def test_win_rate_is_the_share_of_duels_won() -> None:
    scores = scores_of(*make_run({"a": 1.0, "b": 0.5, "c": 0.0}, cases=12, metrics=["psnr", "nabf"]))
    good = scores.goodness
    duels = (good[0] > good[1:]).mean()
    assert ranking.rank(scores).table.loc["a", "win_rate"] == pytest.approx(duels)


def test_direction_zero_ranks_by_distance() -> None:
    rows, manifest = make_run({"near": 0.0, "far": 0.0}, cases=1, metrics=["q_sf"])
    rows["value"] = [-0.1, 0.3]
    assert ranking.rank(scores_of(rows, manifest)).order == ["near", "far"]


def test_missing_cases_take_the_worst_rank() -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0, "c": -1.0}, cases=6, noise=0.0, fail={"a": [0, 1]})
    scores = scores_of(rows, manifest)
    assert scores.ranks[0, :2, :5].min() == 3
    table = ranking.rank(scores).table
    # "a" has rank 3 twice and rank 1 four times; "b" moves up twice; both end on 10 / 6, though the mean
    # of what "a" did finish is far better.
    assert table.loc[["a", "b"], "average"].to_list() == pytest.approx([10 / 6, 10 / 6])
    assert table.loc["c", "average"] == pytest.approx((2 * 2 + 4 * 3) / 6)


def test_a_method_never_gains_by_failing() -> None:
    effects = {"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.0}
    whole = scores_of(*make_run(effects, cases=10, noise=1.0)).subject_ranks.mean(axis=0)
    for i, method in enumerate(effects):
        for case in range(10):
            part = scores_of(*make_run(effects, cases=10, noise=1.0, fail={method: [case]}))
            assert part.subject_ranks.mean(axis=0)[i] >= whole[i]


def test_bootstrap_is_by_subject() -> None:
    # 10 cases per subject that hardly differ: an interval by case would be far too short.
    effects = {"a": 0.0, "b": 0.0}
    one = intervals.summarise(scores_of(*make_run(effects, cases=8, per_subject=1, metrics=["psnr"])))
    ten = intervals.summarise(scores_of(*make_run(effects, cases=80, per_subject=10, metrics=["psnr"])))
    width = [(t["high"] - t["low"]).mean() for t in (one, ten)]
    assert width[1] == pytest.approx(width[0], rel=0.5)


def test_no_interval_for_one_subject() -> None:
    scores = scores_of(*make_run({"a": 1.0, "b": 0.0, "c": 0.5}, cases=5, per_subject=5))
    summary, result = intervals.summarise(scores), ranking.rank(scores)
    assert summary[["low", "high"]].isna().all(axis=None)
    assert result.table[["low", "high", "best", "worst"]].isna().all(axis=None)
    assert (result.table["group"] == "").all() and result.friedman is None
    assert any("One subject" in n for n in result.notes)


def test_summary_agrees_with_pandas() -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0}, cases=9, fail={"b": [4]})
    summary = intervals.summarise(scores_of(rows, manifest))
    ours = summary.loc[("b", "ssim")]
    theirs = rows[(rows["method"] == "b") & (rows["metric"] == "ssim")]["value"].astype(float)
    assert ours["mean"] == pytest.approx(theirs.mean())
    assert ours["sd"] == pytest.approx(theirs.std())
    assert ours["median"] == pytest.approx(theirs.median())
    assert (ours["n"], ours["asked"]) == (8, 9)
    assert ours["low"] < ours["mean"] < ours["high"]


def test_controls_are_ranked_apart_and_flag_metrics() -> None:
    effects = {"a": 1.0, "b": 0.0, "copy": 3.0, "noise": -3.0}
    rows, manifest = make_run(effects, cases=8, noise=0.1, metrics=["psnr", "nabf", "en"])
    scores = scores_of(rows, manifest)
    result = ranking.rank(scores, ["copy", "noise"])
    assert result.order == ["a", "b"]
    assert result.controls.to_dict() == {"copy": 1.0, "noise": 3.0}
    assert ranking.gameable(scores, ["copy", "noise"]) == {
        "psnr": "copy",
        "nabf": "copy",
    }


def test_an_oracle_free_board_flags_nothing() -> None:
    scores = scores_of(*make_run({"a": 1.0, "noise": -3.0}, cases=8))
    assert ranking.gameable(scores, ["noise"]) == {}


def test_a_later_row_replaces_an_earlier_one() -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0}, cases=2, metrics=["psnr"])
    again = rows.iloc[[0]].assign(value=99.0)
    assert scores_of(pd.concat([rows, again]), manifest).values[0, 0, 0] == 99.0
    failed = rows.iloc[[0]].assign(value=None, status="error")
    assert np.isnan(scores_of(pd.concat([rows, failed]), manifest).values[0, 0, 0])


def test_kendall_tau_between_metrics_sees_a_reversed_one() -> None:
    rows, manifest = make_run(
        {f"m{i}": float(i) for i in range(5)}, cases=6, noise=0.0, metrics=["psnr", "ssim", "mi"]
    )
    rows.loc[rows["metric"] == "mi", "value"] *= -1
    tau = ranking.rank(scores_of(rows, manifest)).metric_tau
    assert tau.loc["psnr", "ssim"] == pytest.approx(1) and tau.loc["psnr", "mi"] == pytest.approx(-1)


# -- permutation -------------------------------------------------------------------------------------


def board_of_ranks(
    effects: np.ndarray, subjects: int, metrics: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Average ranks (subjects, methods) of a simulated board; difficulty is common to all methods."""
    shape = (len(effects), subjects, metrics)
    values = effects[:, None, None] + rng.normal(size=shape) + rng.normal(scale=2, size=(1, *shape[1:]))
    return pd.DataFrame(stats.rankdata(-values, axis=0).mean(axis=2).T)


def test_two_methods_agree_with_the_exact_sign_test_of_scipy() -> None:
    d = np.array([1.2, 0.4, -0.3, 2.0, 0.7, 0.1, 1.1])
    p = significance.permute(pd.DataFrame({"x": d, "y": np.zeros(7)})).p.loc["x", "y"]
    theirs = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert p == pytest.approx(theirs.pvalue)


def test_eight_subjects_of_one_mind_have_the_smallest_possible_p() -> None:
    blocks = pd.DataFrame(np.tile(np.arange(13.0), (8, 1)))
    result = significance.permute(blocks)
    assert result.p.loc[0, 12] == 2 / 2**8
    assert (significance.pairwise_wilcoxon(blocks) > 0.05).all(axis=None) and (
        result.p.to_numpy()[np.triu_indices(13, 1)] < 0.05
    ).all()


@pytest.mark.parametrize("subjects", [2, 5])
def test_too_few_subjects_separate_nothing_and_say_so(subjects: int) -> None:
    result = significance.permute(pd.DataFrame(np.tile([0.0, 5.0, 9.0], (subjects, 1))))
    assert (result.p >= 0.05).all(axis=None) and np.isnan(result.separable)
    assert significance.subjects_needed(13) == 6 and significance.subjects_needed(13, "wilcoxon") == 12


def test_many_subjects_are_drawn_and_repeatable() -> None:
    rng = np.random.default_rng(3)
    blocks = pd.DataFrame(rng.normal(loc=(0, 0.2, 0.4, 1.5), size=(20, 4)))
    first, again = (significance.permute(blocks, seed=1).p for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    d = (blocks[0] - blocks[3]).to_numpy()
    alone = significance.permute(pd.DataFrame({"x": d, "y": 0.0})).p.loc["x", "y"]
    assert alone <= first.loc[0, 3] < 0.05


def test_the_smallest_separable_difference_parts_the_pairs() -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        blocks = board_of_ranks(np.linspace(0, 3, 8), 8, 4, rng)
        result = significance.permute(blocks)
        mean = blocks.mean()
        size = np.abs(mean.to_numpy()[:, None] - mean.to_numpy())[np.triu_indices(8, 1)]
        apart = result.p.to_numpy()[np.triu_indices(8, 1)] < 0.05
        assert apart.any() and not apart.all()
        assert size[apart].min() >= size[~apart].max()
        assert size[~apart].max() < result.separable <= size[apart].max()


@pytest.mark.parametrize("effects", [np.zeros(8), np.r_[np.zeros(5), 1.0, 2.0, 3.0]], ids=["null", "partial"])
def test_familywise_error_is_controlled(effects: np.ndarray) -> None:
    rng = np.random.default_rng(11)
    boards = 600
    i, j = np.triu_indices(len(effects), 1)
    null = effects[i] == effects[j]
    false = 0
    for _ in range(boards):
        p = significance.permute(board_of_ranks(effects, 8, 3, rng)).p.to_numpy()[i, j]
        false += bool((p[null] < 0.05).any())
    # Three standard errors of a simulation of so many boards.
    assert false / boards <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / boards)


@pytest.mark.parametrize("subjects", [8, 14])
def test_power_is_above_holm(subjects: int) -> None:
    rng = np.random.default_rng(subjects)
    effects = np.linspace(0, 3, 9)
    i, j = np.triu_indices(len(effects), 1)
    ours, holm = [], []
    for _ in range(6):
        blocks = board_of_ranks(effects, subjects, 4, rng)
        ours.append((significance.permute(blocks).p.to_numpy()[i, j] < 0.05).mean())
        holm.append((significance.pairwise_wilcoxon(blocks).to_numpy()[i, j] < 0.05).mean())
    assert np.mean(ours) > 0.4 and np.mean(ours) > np.mean(holm) + 0.05


def test_groups_of_a_board_follow_the_test_that_was_asked_for() -> None:
    rows, manifest = make_run({f"m{i}": 1.5 * i for i in range(8)}, cases=8)
    scores = scores_of(rows, manifest)
    ours, theirs = (ranking.rank(scores, test=t).table["group"] for t in ("permutation", "wilcoxon"))
    assert ours.nunique() > 3 and theirs.nunique() == 1
    with pytest.raises(ValueError, match="no test is called"):
        ranking.rank(scores, test="t")
