"""Confidence and groups of an audit: loop twins, other libraries, corner answers."""

import numpy as np
import pytest

from mien.audit.groups import groups, ordered
from mien.audit.page import minus
from mien.audit.right import right
from mien.audit.run import rows_of
from mien.audit.sample import Sample, groups_of, names_labels, thirds
from mien.audit.sure import sure
from mien.audit.table import Part, as_json, from_json, p_words, row, within
from mien.audit.verdict import verdict
from mien.data.store import write_store
from mien.errors import DataError
from mien.metrics.confidence import (
    adaptive_error,
    brier,
    class_wise_error,
    equal_mass,
    equal_mass_error,
    mean_log_loss,
    risk_coverage,
)
from mien.metrics.parity import (
    calibration_gaps,
    difference,
    judged,
    largest_gaps,
    odds,
    smallest_group,
    spread_over_people,
)

CLASSES = ("Neutral", "Happiness", "Anger")


def answers(n=200, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    logits = rng.normal(0, 1, (n, classes)) + 1.5 * np.eye(classes)[labels]
    shares = np.exp(2 * logits)
    return shares / shares.sum(1, keepdims=True), labels


def sample(n=200, seed=0, people=40, votes=True):
    rng = np.random.default_rng(seed + 1)
    _, labels = answers(n, seed)
    owner = np.arange(n) % people
    points = rng.normal(50, 20, (n, 68, 2)).astype(np.float32)
    shares = np.eye(3)[labels] * 0.4 + 0.2 if votes else np.full((n, 3), np.nan)
    groups_ = {"glasses": np.where(owner % 2 == 0, "yes", "no")}
    return Sample(CLASSES, labels, points, shares.astype(np.float32), owner, groups_, np.arange(n))


def test_equal_mass_is_its_loop_and_sees_no_order():
    shares, labels = answers(203)
    top, hit = shares.max(1), shares.argmax(1) == labels
    order = sorted(range(203), key=lambda i: top[i])
    members = {}
    for place, i in enumerate(order):
        members.setdefault(place * 10 // 203, []).append(i)
    twin = sum(abs(sum(top[i] - hit[i] for i in own)) for own in members.values()) / 203
    assert equal_mass(top, hit, 10).error == pytest.approx(twin)
    mixed = np.random.default_rng(0).permutation(203)
    assert equal_mass_error(shares[mixed], labels[mixed], 10) == pytest.approx(twin)


def test_ties_stay_in_one_bin():
    bins = equal_mass(np.full(30, 0.7), np.arange(30) < 21, 15)
    assert bins.size.tolist() == [30]
    assert bins.error == pytest.approx(0)


def test_adaptive_and_class_wise_are_their_loops():
    shares, labels = answers(150)
    adaptive, wise = [], []
    for k in range(3):
        order = np.argsort(shares[:, k], kind="stable")
        for place in range(15):
            own = order[[i for i in range(150) if i * 15 // 150 == place]]
            adaptive.append(abs(shares[own, k].mean() - (labels[own] == k).mean()))
        total = 0.0
        for b in range(15):
            own = [i for i in range(150) if b / 15 < shares[i, k] <= (b + 1) / 15]
            total += abs(sum(shares[i, k] - (labels[i] == k) for i in own)) / 150
        wise.append(total)
    assert adaptive_error(shares, labels) == pytest.approx(np.mean(adaptive))
    assert class_wise_error(shares, labels) == pytest.approx(wise)


def test_brier_and_log_loss_are_those_of_scikit_learn_and_the_parts_add_up():
    from sklearn.metrics import brier_score_loss, log_loss

    shares, labels = answers(300)
    found = brier(shares, labels)
    each = sum(brier_score_loss(labels == k, shares[:, k]) for k in range(3))
    assert found.score == pytest.approx(each)
    assert found.score == pytest.approx(found.reliability - found.resolution + found.uncertainty + found.within)
    assert mean_log_loss(shares, labels) == pytest.approx(log_loss(labels, shares))
    few = np.round(shares[:, :2] / shares[:, :2].sum(1, keepdims=True), 1)  # eleven values: nothing lies within bins
    coarse = brier(few, np.minimum(labels, 1), 300)
    assert coarse.within == pytest.approx(0, abs=1e-9)


def test_risk_coverage_is_its_loop_and_shares_ties():
    shares, labels = answers(120)
    wrong = shares.argmax(1) != labels
    order = sorted(range(120), key=lambda i: -shares[i].max())
    twin = np.mean([np.mean([wrong[i] for i in order[:n]]) for n in range(1, 121)])
    found = risk_coverage(shares, labels)
    assert found.area == pytest.approx(twin)
    assert found.best <= found.area
    flat = risk_coverage(np.tile([0.6, 0.4, 0.0], (120, 1)), labels)
    assert flat.area == pytest.approx(flat.chance)


def test_labels_outside_are_refused():
    with pytest.raises(DataError, match="labels must lie"):
        mean_log_loss(np.full((2, 3), 1 / 3), [0, 3])


def test_odds_are_those_of_fairlearn():
    metrics = pytest.importorskip("fairlearn.metrics")
    shares, labels = answers(400, seed=3)
    names = np.random.default_rng(5).choice(["a", "b", "c"], 400)
    for k in range(3):
        theirs = metrics.equalized_odds_difference(labels == k, shares.argmax(1) == k, sensitive_features=names)
        assert odds(shares.argmax(1), labels, names, k).equalised == pytest.approx(theirs)


def test_odds_are_their_loop():
    predicted, labels = np.array([1, 1, 0, 1, 0, 0, 1, 0]), np.array([1, 0, 1, 1, 1, 0, 1, 0])
    names = np.array(["a", "a", "a", "a", "b", "b", "b", "b"])
    found = odds(predicted, labels, names, 1)
    assert found.recall == pytest.approx(abs(2 / 3 - 1 / 2))
    assert found.false_alarms == pytest.approx(1.0)
    assert found.equalised == pytest.approx(1.0)


def test_difference_is_that_of_means_and_holm_allows_for_all_pairs():
    rng = np.random.default_rng(2)
    people = np.repeat(np.arange(60), 5)
    side = np.where(people % 2 == 0, "a", "b")
    values = rng.normal(0, 1, 300) + rng.normal(0, 1, 60)[people] + 3 * (side == "b")
    test = difference(values, side == "a", side == "b", people)
    assert test.difference == pytest.approx(values[side == "b"].mean() - values[side == "a"].mean())
    assert test.p < 0.001
    noise = {f"n{k}": rng.permutation(60).astype(str)[people] for k in range(0)} | {
        f"noise {k}": rng.choice(["x", "y"], 60)[people] for k in range(4)
    }
    gaps = largest_gaps(values, {"side": side, **noise}, people)
    assert gaps["side"].corrected == pytest.approx(min(1, 5 * gaps["side"].test.p))
    assert set(gaps) == {"side", *noise}


@pytest.mark.slow
def test_a_gap_that_is_not_there_is_rarely_found():
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        people = np.repeat(np.arange(24), 8)
        luck = rng.normal(0, 1, 24)[people]
        hit = (rng.normal(0, 1, 192) + luck > 0).astype(float)
        attributes = {f"a{k}": rng.permutation(np.arange(24) % 3).astype(str)[people] for k in range(3)}
        found += min(gap.corrected for gap in largest_gaps(hit, attributes, people, seed=seed).values()) < 0.05
    assert found <= 10


def test_small_groups_are_not_judged():
    names = np.array(["a"] * 50 + ["b"] * 11 + [""] * 5)
    assert judged(names, None) == ["a"]
    assert judged(names, np.zeros(66, int)) == []
    assert smallest_group(0.5) == 97
    assert calibration_gaps(np.full((66, 2), 0.5), np.zeros(66, int), names).keys() == {"a", "b"}


def test_thirds_of_numbers():
    words = thirds(np.array([1.0, 2, 3, 4, 5, 6, np.nan]))
    assert words.tolist() == ["low (to 2.67)"] * 2 + ["middle"] * 2 + ["high (over 4.33)"] * 2 + [""]
    assert set(thirds(np.full(5, 2.0))) == {""}


@pytest.mark.parametrize("make", [right, sure, groups])
def test_parts_are_plain_and_come_back_from_a_file(make):
    import json

    shares, _ = answers()
    part = make(sample(), shares)
    assert part.verdict
    assert part.tables
    assert from_json(json.loads(json.dumps(as_json(part), allow_nan=False))) == part


def test_what_cannot_be_said_is_said():
    shares, labels = answers()
    bare = sample(votes=False)._replace(people=None, groups={}, landmarks=np.full((200, 68, 2), np.nan, np.float32))
    told = " ".join(right(bare, shares).cannot)
    assert "votes" in told
    assert "landmarks" in told
    assert "Nobody is named" in told
    assert "never guessed" in groups(bare, shares).cannot[0]
    few = bare.part(np.arange(12))
    assert "temperature" in sure(few, shares[:12]).cannot[0]
    one = bare._replace(labels=np.zeros_like(labels))
    assert len(right(one, shares).verdict) == 1, "nothing of classes where there is one"
    assert "No faces of Happiness, Anger" in " ".join(right(one, shares).cannot)


def test_majority_and_votes_stand_beside_the_accuracy():
    shares, labels = answers()
    table = right(sample(), shares).tables[0]
    rows = {row.name: row for row in table.rows}
    assert rows["accuracy"].value == pytest.approx((shares.argmax(1) == labels).mean())
    assert rows["accuracy"].baseline == pytest.approx(np.bincount(labels).max() / 200)
    assert rows["one annotator, accuracy"].value == pytest.approx(0.6)


def test_people_who_are_alike_are_not_told_apart_and_others_are():
    owner = np.repeat(np.arange(40), 10)
    alike = spread_over_people(np.random.default_rng(0).random(400) < 0.7, owner)
    means = sorted(
        np.mean([(np.random.default_rng(0).random(400) < 0.7)[k] for k in range(400) if owner[k] == p])
        for p in range(40)
    )
    assert alike.people == 40
    assert alike.own == pytest.approx((np.mean(means[:4]), np.median(means), np.mean(means[-4:])))
    assert np.allclose(alike.own, alike.luck, atol=0.12)
    apart = spread_over_people(owner % 2, owner)
    assert apart.own == (0, 0.5, 1)
    assert apart.luck[0] > 0.15
    assert spread_over_people(np.ones(20), np.arange(20)) is None, "one face each"


def test_labels_of_others_are_no_groups():
    assert names_labels(np.array(["Happiness", "Anger", "unknown", ""]))
    assert not names_labels(np.array(["Happiness", "found"]))
    assert not names_labels(np.array(["yes", "no"]))
    told = groups(sample()._replace(labels_like=("ferplus",)), answers()[0]).cannot
    assert "ferplus names expressions: another opinion on the label, no group." in told


def test_calibration_of_groups_has_intervals_and_a_test():
    part = groups(sample(), answers()[0])
    tables = {table.key: table for table in part.tables}
    assert all(one.low < one.value < one.high for one in tables["calibration"].rows)
    assert "Holm" in tables["calibration_gaps"].rows[0].note
    assert tables["people"].rows[0].value <= tables["people"].rows[2].value


def test_light_sharpness_and_yaw_are_measured_where_landmarks_are_known(tmp_path):
    import tiny

    made = tiny.records(each=3, splits=("test",))
    faces = [one._replace(image=(one.image * (0.3 + k / 30)).astype(np.uint8)) for k, one in enumerate(made)]
    faces[0] = faces[0]._replace(landmarks=None)
    store = write_store(faces, tmp_path / "s", dataset="toy", size=tiny.SIZE)
    found = groups_of(store, np.arange(len(made)))
    assert found["light on the face"][0] == ""
    assert found["light on the face"][1].startswith("low")
    assert found["light on the face"][-1].startswith("high")
    assert "sharpness" in found


def test_intervals_stay_where_scores_can_be_and_p_is_never_0():
    wide = row("x", 0.9)._replace(low=0.4, high=1.4)
    assert within(wide, 0, 1)[2:4] == (0.4, 1.0)
    assert within(row("x", 0.9), 0, 1)[2:4] == (None, None)
    assert (p_words(0.04), p_words(1e-9)) == ("p = 0.040", "p < 0.001")
    assert minus("-0.000, -0.5 (-22.0 points), a-1 and 3-4") == "0.000, −0.5 (−22.0 points), a-1 and 3-4"


def test_groups_of_numbers_stand_from_low_to_high():
    assert ordered(["high (over 2)", "low (to 1)", "middle"]) == ["low (to 1)", "middle", "high (over 2)"]
    assert ordered(["15–30°", "over 30°", "under 15°"]) == ["under 15°", "15–30°", "over 30°"]
    assert ordered(["no", "dark", "yes"]) == ["no", "dark", "yes"]


def test_sentences_have_no_signed_zeros_and_no_gap_is_no_gap():
    part = Part("right", "t", verdict=("It is -0.00 (a mean -0.02, none -0) of x-0 and 1-0.5.",))
    assert verdict([part]) == ["It is 0.00 (a mean -0.02, none 0) of x-0 and 1-0.5."]
    labels = np.zeros(200, int)
    shares = np.tile([0.6, 0.3, 0.1], (200, 1))
    side = {"side": np.where(np.arange(200) % 2 == 0, "a", "b")}
    told = groups(sample()._replace(labels=labels, groups=side), shares).verdict
    assert told == ("No group differs in accuracy: all of them have 100 %.",)


def test_a_remedy_is_one_that_was_not_tried(tmp_path):
    from tiny import store

    made = store(tmp_path / "s", each=2)
    labels = np.where(np.arange(len(made)) < 3, 0, -1)
    for split, words in (("all", "Use another --store"), ("test", "Use --split all, or another --store")):
        with pytest.raises(DataError, match=words):
            rows_of(made, labels, split, 100, 0)


def test_equalised_odds_of_a_class_need_faces_of_it_in_each_group():
    """Of Anger group b has 11 faces, all wrong: as few say nothing."""
    labels = np.repeat([0, 0, 2, 2], [60, 60, 60, 11])
    side = np.repeat(["a", "b", "a", "b"], [60, 60, 60, 11])
    said = np.where(labels == 0, 0, np.where(side == "a", 2, 1))
    blank = np.full((191, 68, 2), np.nan, np.float32)
    made = Sample(CLASSES, labels, blank, np.full((191, 3), np.nan, np.float32), None, {"side": side}, np.arange(191))
    (found,) = next(table for table in groups(made, np.eye(3)[said]).tables if table.key == "odds").rows
    assert (found.value, found.note[:7]) == (0, "Neutral")
