"""What is compared: contestants from flags, trials, and refusals before any run."""

from __future__ import annotations

import re

import pytest

from vpd_agent.comparison.experiment import (
    check_shared,
    contestants,
    feedback_meaning,
    read_settings,
    without_doubles,
)
from vpd_agent.comparison.record import check_same, locked, shared_settings
from vpd_agent.comparison.results import STUDENT, read_run
from vpd_agent.comparison.tuning import best, score, trials

KNOWN = {
    "vpd": {"e_step_every": int, "learning_rate": float, "beta": float, "seed": int},
    "vpd-pg": {"e_step_every": int, "learning_rate": float, "seed": int},
    "grpo": {"kl_to_reference": float, "learning_rate": float, "seed": int},
}


def made(*texts: str, algorithms=("vpd", "grpo"), feedback=("environment",)):
    return contestants(algorithms, feedback, read_settings(texts, algorithms, KNOWN))


def labels(*texts: str, **given) -> list[str]:
    return [c.label for c in made(*texts, **given)]


def test_a_grid_makes_a_contestant_of_each_combination_and_labels_say_what_differs():
    assert labels("vpd.e-step-every=1,2", "vpd.beta=0.1,1", "grpo.kl_to_reference=0.01") == [
        *("vpd e_step_every=1 beta=0.1", "vpd e_step_every=1 beta=1"),
        *("vpd e_step_every=2 beta=0.1", "vpd e_step_every=2 beta=1", "grpo"),
    ]
    *_, grpo = made("grpo.kl_to_reference=0.01")
    assert grpo.arguments() == ["--feedback", "environment", "--kl-to-reference", "0.01"]


def test_a_setting_of_all_algorithms_gives_way_to_that_of_one():
    vpd, grpo = made("*.learning_rate=1e-4", "vpd.learning_rate=2e-4")
    assert vpd.options == (("learning_rate", "2e-4"),)
    assert grpo.options == (("learning_rate", "1e-4"),)


def test_an_algorithm_whose_name_begins_with_another_has_its_own_settings():
    vpd, other = made("vpd-pg.e_step_every=5", algorithms=("vpd", "vpd-pg"))
    assert (vpd.options, other.options) == ((), (("e_step_every", "5"),))


def test_several_feedback_sources_are_several_contestants():
    assert labels(algorithms=("vpd",), feedback=("status", "siblings")) == [
        *("vpd status", "vpd siblings"),
    ]


def test_truths_become_flags_of_their_own():
    known = {"rft": {"one_per_group": bool}}
    settings = read_settings(["rft.one_per_group=True,false"], ["rft"], known)
    on, off = contestants(["rft"], ["status"], settings)
    assert on.arguments()[2:] == ["--one-per-group"]
    assert off.arguments()[2:] == ["--no-one-per-group"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("vpd.e_step_evry=1", "vpd has no option 'e_step_evry'. Did you mean 'e_step_every'?"),
        ("grpo.beta=1", "grpo has no option 'beta'."),
        ("*.beta=1", "grpo has no option 'beta'."),
        ("sdpo.alpha=1", "Unknown algorithm 'sdpo'."),
        ("vpd.beta", "expected ALGORITHM.KEY=VALUE"),
        ("vpd.beta=1,", "expected ALGORITHM.KEY=VALUE"),
        ("beta=1", "expected ALGORITHM.KEY=VALUE"),
        ("vpd.beta=1,1", "a value is given twice"),
        ("vpd.seed=1", "use --seeds"),
    ],
)
def test_a_bad_setting_is_refused(text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        read_settings([text], ["vpd", "grpo"], KNOWN)


def test_the_same_setting_twice_is_refused():
    with pytest.raises(ValueError, match="sets beta of vpd twice"):
        read_settings(["vpd.beta=1", "vpd.beta=2"], ["vpd"], KNOWN)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--beta", "1"], "vpd-pg has no such flag. Give it to those that have it: "
                          "--set-algorithm vpd.beta=…"),
        (["--lerning-rate=1"], "Unknown flag --lerning-rate behind '--'. Did you mean "
                               "'--learning-rate'?"),
        (["--seed", "3"], "vpd compare sets it: use --seeds."),
    ],
)  # fmt: skip
def test_flags_for_all_runs_must_be_flags_of_all(given, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check_shared(given, KNOWN)
    check_shared(["--learning-rate", "-1"], KNOWN)


def test_doubles_count_once_and_are_told():
    assert without_doubles("--seeds", (0, 0, 1)) == (
        (0, 1),
        "--seeds: 0 is given more than once; it counts once.",
    )
    assert without_doubles("--seeds", (0, 1)) == ((0, 1), "")


def test_feedback_that_means_the_same_counts_once():
    """Around the environment's feedback a source works as it does with that named."""
    given = ("siblings", "environment", "environment+siblings", "outcome+siblings")
    assert without_doubles("--feedback", given, feedback_meaning) == (
        ("siblings", "environment", "outcome+siblings"),
        "--feedback: siblings = environment+siblings is given more than once; it counts once.",
    )


def test_folders_are_safe_and_of_one_contestant_each():
    names = ("module:Class", "module_Class", "some/file.py:Class", "x" * 90, "x" * 91)
    folders = [c.folder for c in contestants(names, ["status"], [])]
    assert len(set(folders)) == len(names)
    assert all(re.fullmatch(r"[\w.+=-]{1,90}", folder) for folder in folders)
    assert folders[1] == "module_Class"


def test_trials_are_as_many_for_every_contestant_and_begin_with_it_as_it_is():
    (vpd,) = made(algorithms=("vpd",))
    found = trials(vpd, 5, 1e-4, "e_step_every", 1, (1, 2))
    assert [dict(trial.values) for trial in found] == [
        {"learning_rate": "0.0001", "e_step_every": "1"},
        {"learning_rate": "0.0002", "e_step_every": "1"},
        {"learning_rate": "0.0001", "e_step_every": "2"},
        {"learning_rate": "5e-05", "e_step_every": "1"},
        {"learning_rate": "0.0002", "e_step_every": "2"},
    ]
    rates = [dict(trial.values) for trial in trials(vpd, 5, 1e-4, "", None, ())]
    assert [float(values["learning_rate"]) for values in rates] == [1e-4, 2e-4, 5e-5, 4e-4, 2.5e-5]


def test_what_a_setting_fixes_is_not_tuned():
    (fixed,) = made("vpd.learning_rate=3e-4", algorithms=("vpd",))
    found = trials(fixed, 2, 3e-4, "e_step_every", 1, (1, 2))
    assert [trial.values for trial in found] == [(("e_step_every", "1"),), (("e_step_every", "2"),)]
    with pytest.raises(ValueError, match="only 2 trials, as its settings fix learning_rate"):
        trials(fixed, 3, 3e-4, "e_step_every", 1, (1, 2))


def test_the_best_trial_is_that_with_the_highest_mean_of_all_its_seeds():
    assert best([[0.2, 0.4], [0.5, 0.2], [0.1, 0.1]]) == 1
    assert best([[0.25, 0.25], [0.0, 0.5]]) == 0  # equal: the first
    assert best([[0.1, 0.1], [0.9, None]]) == 0  # one of its runs failed
    assert best([[None], [None]]) == 0


def test_a_score_is_the_mean_of_the_evaluations_after_the_first_step(tmp_path):
    lines = [{"step": s, STUDENT: v} for s, v in ((0, 0.9), (5, 0.2), (10, 0.4))]
    (tmp_path / "metrics.jsonl").write_text(
        "".join(f"{line}\n".replace("'", '"') for line in lines)
    )
    assert score(read_run(tmp_path, "vpd", 0, "finished")) == pytest.approx(0.3)
    assert score(read_run(tmp_path, "vpd", 0, "failed", "why")) is None


HERE = {"shared": {"env": "a", "steps": 3}, "fingerprints": {"train": "x"}, "tune": {"trials": 0}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"shared": {"env": "b", "steps": 3}}, "env is 'a' there, 'b' here"),
        ({"shared": {"env": "a", "steps": 4}}, "steps is 3 there, 4 here"),
        ({"fingerprints": {"train": "y"}}, "train is 'x' there, 'y' here"),
        ({"tune": {"trials": 2}}, "trials is 0 there, 2 here"),
    ],
)
def test_another_experiment_in_the_same_folder_is_refused(changed, said, tmp_path):
    check_same(tmp_path, HERE, HERE)
    check_same(tmp_path, {}, HERE)
    with pytest.raises(ValueError, match=re.escape(f"another comparison: {said}. Pass another")):
        check_same(tmp_path, HERE, HERE | changed)


def flags(**config):
    shared = {"steps": 3, "success_reward": 1.0, "eval_every": 1, "eval_problems": 9,
              "eval_samples": 1, "max_response_tokens": 8, "temperature": 1.0}  # fmt: skip
    options = {"env": "e", "set": (), "model": "m", "train_split": "train", "eval_split": "test"}
    return {
        "config": {**shared, "prompts_per_step": 2, "group_size": 4, **config},
        "options": options,
    }


def test_all_are_given_the_same_rollouts_and_evaluations():
    same = shared_settings({"vpd": flags(), "grpo": flags(prompts_per_step=4, group_size=2)})
    assert same["rollouts per step"] == 8
    with pytest.raises(ValueError, match="grpo has rollouts per step = 16, vpd has 8"):
        shared_settings({"vpd": flags(), "grpo": flags(group_size=8)})
    with pytest.raises(ValueError, match="grpo has eval_problems = 5, vpd has 9"):
        shared_settings({"vpd": flags(), "grpo": flags(eval_problems=5)})


def test_two_comparisons_do_not_share_a_folder(tmp_path):
    out = tmp_path / "c"
    with locked(out):
        with pytest.raises(ValueError, match="Another vpd compare works in"), locked(out):
            pass
        assert out.is_dir()
    assert not out.exists()  # nothing was written, so nothing is left
