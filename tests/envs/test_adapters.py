"""The adapters: TRL really trains on our environments, verifiers really plays them.

The tests of TRL need it installed, those of verifiers another virtual environment with gymnasium,
pytest and verifiers (it has many dependencies), with this repository on the path:

    PYTHONPATH=. VENV/bin/python -m pytest tests/envs/test_adapters.py

Those of ms-swift are about how it calls and what it changes, and in a virtual environment that has
ms-swift they use its own class for an attempt.
"""

import asyncio
import dataclasses
import importlib
import inspect
import itertools
import json
import pickle
import statistics
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import pytest
from sandboxes import BrokenSandbox

from sandbox import SandboxError, shared
from vpd_envs import (
    EnvironmentFeedback,
    FeedbackBudget,
    FeedbackSource,
    Problem,
    SelfCritique,
    SiblingFeedback,
    Status,
    TextEnv,
    Verdict,
    compose,
)
from vpd_envs.adapters import ms_swift as swift
from vpd_envs.adapters import text_env
from vpd_envs.adapters import trl as adapter
from vpd_envs.code.mini_code import MiniCode

BROKEN = "broken"  # what the judge of Doubling, or a sandbox in flames, fails on


class Doubling(TextEnv):
    """Doubles of small numbers; an answer in brackets gets half of the reward."""

    def __init__(self, numbers=(3, 4, 5), **kwargs):
        problems = [Problem(str(n), f"Double {n}.", 2 * n, system="Be brief.") for n in numbers]
        super().__init__(problems, **kwargs)

    def judge(self, problem, answer):
        if BROKEN in answer:
            raise SandboxError("The judge is ill.")
        answer = answer.strip()
        if answer == str(problem.target):
            return Verdict(1.0, Status.SOLVED, "Right.")
        if answer == f"({problem.target})":
            return Verdict(0.5, Status.WRONG_ANSWER, "Without brackets.")
        return Verdict(0.0, Status.WRONG_ANSWER, f"{answer} is not it.")


class Insisting(Doubling):
    """Asks once more about a right answer: only then it counts."""

    def after(self, problem, answer):
        return dataclasses.replace(problem, earlier=(*problem.earlier, answer))

    def judge(self, problem, answer):
        verdict = super().judge(problem, answer)
        if verdict.solved and answer not in problem.earlier:
            return Verdict(0.0, Status.WRONG_ANSWER, "Sure?")
        return verdict


gym.register("Doubling-v0", entry_point=Doubling, vector_entry_point=Doubling.vector)
gym.register("Insisting-v0", entry_point=Insisting, vector_entry_point=Insisting.vector)


def reward_of(env, ids, answers, **more):
    """A reward function, and what it gives for these answers."""
    reward = adapter.reward_function(env)
    return reward, reward(prompts=ids, completions=answers, problem_id=ids, **more)


# What the adapters take


def test_importing_the_adapters_loads_no_library_and_not_torch():
    program = (
        "import sys, vpd_envs.adapters.ms_swift, vpd_envs.adapters.trl; "
        "print([m for m in ('trl', 'torch', 'datasets', 'verifiers', 'swift') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert result.stdout.strip() == "[]"


def test_an_environment_may_be_an_id_or_made_or_batched():
    env = Doubling()
    assert text_env(env) is env
    assert text_env(Doubling.vector(3)).problem_ids == env.problem_ids
    assert text_env("Doubling-v0", numbers=(7,)).problem_ids == ("7",)
    assert text_env(gym.make("Doubling-v0", numbers=(7,))).problem_ids == ("7",)


def test_what_would_be_lost_is_refused():
    with pytest.raises(ValueError, match="without wrappers"):
        text_env(EnvironmentFeedback(Doubling()))
    with pytest.raises(ValueError, match="options numbers are for"):
        text_env(Doubling(), numbers=(7,))
    with pytest.raises(ValueError, match="Expected the id"):
        text_env(gym.make("CartPole-v1"))


# TRL: the reward function and the data set


@pytest.fixture
def _trl():
    pytest.importorskip("trl")


@pytest.mark.usefixtures("_trl")
def test_the_data_set_has_a_row_of_messages_per_problem_and_no_answer():
    rows = adapter.dataset(Doubling(numbers=(31, 47)))
    assert rows.column_names == ["prompt", "problem_id"]
    assert rows[1]["problem_id"] == "47"
    assert rows[1]["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Double 47."},
    ]
    assert "94" not in json.dumps(rows.to_list())
    some = adapter.dataset("Doubling-v0", problem_ids=["5", "3"])
    assert some["problem_id"][:] == ["5", "3"]
    with pytest.raises(ValueError, match="No problem has the id '8'"):
        adapter.dataset(Doubling(), problem_ids=["8"])


@pytest.mark.usefixtures("_trl")
def test_answers_are_judged_in_every_form_that_trl_gives_them():
    said = [{"role": "assistant", "content": "6"}]
    blocks = [{"role": "assistant", "content": [{"type": "text", "text": "6"}]}]
    with_tools = [
        {"role": "assistant", "content": "7", "tool_calls": []},
        {"role": "tool", "name": "add", "content": "8"},
        {"role": "assistant", "content": "(6)"},
    ]
    silent = [{"role": "assistant", "content": None}]
    answers = ["6", said, blocks, with_tools, silent, "7"]
    reward, rewards = reward_of(Doubling(), ["3"] * 6, answers)
    assert rewards == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert reward.last_feedback[3:] == ["Without brackets.", " is not it.", "7 is not it."]


@pytest.mark.usefixtures("_trl")
def test_an_answer_that_could_not_be_judged_has_no_reward_instead_of_zero():
    reward, rewards = reward_of(Doubling(), ["3", "3", "4"], ["6", BROKEN, "6"])
    assert rewards == [1.0, None, 0.0]
    assert reward.last_feedback == ["Right.", None, "6 is not it."]
    assert isinstance(reward.last_verdicts[1], SandboxError)
    with pytest.raises(SandboxError, match=r"None of 2 answers could be judged.*ill"):
        reward_of(Doubling(), ["3", "4"], [BROKEN, BROKEN])


@pytest.mark.usefixtures("_trl")
def test_rows_of_another_task_have_no_reward_and_foreign_problems_are_refused():
    reward, rewards = reward_of(Doubling(), ["3", None], ["6", "6"])
    assert rewards == [1.0, None]
    assert reward.last_verdicts[1] is None
    assert reward_of(Doubling(), [None], ["6"])[1] == [None]
    with pytest.raises(ValueError, match="No problem has the id '8'"):
        reward_of(Doubling(), ["8"], ["6"])
    with pytest.raises(ValueError, match=r"'problem_id', which the data set lacks.*dataset\(env\)"):
        reward(prompts=["Double 3."], completions=["6"])


@pytest.mark.usefixtures("_trl")
def test_feedback_status_and_shares_are_logged_under_the_name_of_the_reward():
    columns, metrics = {}, {}
    _, rewards = reward_of(
        Doubling(),
        ["3", "3", "4", None],
        ["6", BROKEN, "6", "x"],
        log_extra=columns.__setitem__,
        log_metric=metrics.__setitem__,
    )
    assert rewards == [1.0, None, 0.0, None]
    assert columns["Doubling/feedback"] == ["Right.", None, "6 is not it.", None]
    solved, broken, wrong, foreign = columns["Doubling/status"]
    assert (solved, wrong, foreign) == ("solved", "wrong_answer", None)
    assert "The judge is ill" in broken
    assert metrics == {"Doubling/solved": 1 / 2, "Doubling/unjudged": pytest.approx(1 / 3)}
    assert adapter.reward_function(Doubling(), name="easy").__name__ == "easy"


def test_a_missing_or_old_trl_is_named_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ImportError, match=r"not installed: .*pip install 'trl>=1\.8,<2'"):
        adapter.dataset(Doubling())
    (tmp_path / "trl-1.5.1.dist-info").mkdir()
    (tmp_path / "trl-1.5.1.dist-info" / "METADATA").write_text("Name: trl\nVersion: 1.5.1\n")
    importlib.invalidate_caches()
    for make in (adapter.reward_function, adapter.environment_factory):
        with pytest.raises(ImportError, match=r"needs TRL 1\.8 or newer, 1\.5\.1 is installed"):
            make(Doubling())


# TRL: environments


@pytest.mark.usefixtures("_trl")
def test_feedback_follows_each_submission_until_the_episode_is_over():
    tool = adapter.environment_factory(Doubling(max_turns=3))()
    asked = tool.reset(prompt=[], problem_id="3")
    assert "`submit`" in asked
    assert "3 answers at most" in asked
    assert (tool.submit("7"), tool.submit("(6)")) == ("7 is not it.", "Without brackets.")
    assert tool.get_reward() == 0.0  # as long as the episode is open
    assert tool.submit("6") == "Right."
    assert tool.get_reward() == 1.0
    assert "No more" in tool.submit("7")
    assert tool.get_reward() == 1.0
    assert tool.feedback == ["7 is not it.", "Without brackets.", "Right."]
    assert "at most" not in adapter.environment_factory(Doubling())().reset(problem_id="4")


@pytest.mark.usefixtures("_trl")
def test_the_reward_of_an_episode_is_that_of_its_last_answer():
    tool = adapter.environment_factory(Doubling(max_turns=2))()
    for answers, reward in ([], 0.0), (["7"], 0.0), (["7", "(6)"], 0.5), (["6"], 1.0):
        tool.reset(problem_id="3")
        for answer in answers:
            tool.submit(answer)
        assert tool.get_reward() == reward, answers


@pytest.mark.usefixtures("_trl")
def test_a_submission_may_be_judged_by_those_before():
    tool = adapter.environment_factory(Insisting(max_turns=3))()
    for _ in range(2):
        tool.reset(problem_id="3")
        assert [tool.submit("6"), tool.submit("6")] == ["Sure?", "Right."]


@pytest.mark.usefixtures("_trl")
def test_a_submission_that_could_not_be_judged_does_not_count():
    tool = adapter.environment_factory(Doubling(max_turns=2))()
    tool.reset(problem_id="3")
    for answer in ("7", BROKEN, BROKEN):
        told = tool.submit(answer)
    assert "Hand it in again" in told
    assert tool.get_reward() is None
    assert tool.submit("6") == "Right."
    assert tool.get_reward() == 1.0
    tool.reset(problem_id="3")
    assert tool.get_reward() == 0.0


@pytest.mark.usefixtures("_trl")
def test_rollouts_side_by_side_do_not_meet_and_a_factory_can_be_pickled():
    factory = pickle.loads(pickle.dumps(adapter.environment_factory(Doubling(max_turns=2))))
    one, two = factory(), factory()
    one.reset(problem_id="3")
    two.reset(problem_id="4")
    assert (one.submit("6"), two.submit("8")) == ("Right.", "Right.")


@pytest.mark.usefixtures("_trl")
def test_the_model_sees_one_tool_and_its_schema():
    transformers = pytest.importorskip("transformers")
    tool = adapter.environment_factory(Doubling())()
    names = [name for name, _ in inspect.getmembers(type(tool), inspect.isfunction)]
    assert {name for name in names if name[0] != "_"} == {"submit", "reset", "get_reward"}
    schema = transformers.utils.get_json_schema(tool.submit)["function"]
    assert schema["parameters"]["properties"]["answer"]["type"] == "string"


class Loud(FeedbackSource):
    def feedback(self, attempts):
        return [attempt.feedback.upper() for attempt in attempts]


class Comparing(Loud):
    needs_batch = True


@pytest.mark.usefixtures("_trl")
def test_sources_of_feedback_decide_what_the_model_is_told():
    tool = adapter.environment_factory(Doubling(max_turns=2), Loud())()
    tool.reset(problem_id="3")
    assert tool.submit("7") == "7 IS NOT IT."
    with pytest.raises(ValueError, match="Comparing compares the attempts of a batch"):
        adapter.environment_factory(Doubling(), Comparing())


@pytest.mark.usefixtures("_trl")
def test_sources_with_parts_tell_the_model_the_complete_text():
    critique = SelfCritique(lambda prompts: ["Think."] * len(prompts), keep=True)
    tool = adapter.environment_factory(Doubling(max_turns=2), critique, FeedbackBudget(18))()
    tool.reset(problem_id="3")
    assert tool.submit("7") == "7 is not it.\n\nThink."[:18]
    with pytest.raises(ValueError, match="SiblingFeedback compares the attempts of a batch"):
        adapter.environment_factory(Doubling(), SiblingFeedback())
    with pytest.raises(ValueError, match="without wrappers"):
        text_env(compose(Doubling.vector(2), SiblingFeedback()))


@pytest.mark.usefixtures("_trl")
def test_an_environment_without_its_data_set_is_refused():
    tool = adapter.environment_factory(Doubling())()
    with pytest.raises(ValueError, match=r"'problem_id', which the data set lacks.*dataset\(env\)"):
        tool.reset(prompt="Double 3.")


# TRL: its trainer


@pytest.fixture
def _one_thread():
    """Models this small are many times slower on two threads as soon as another process runs."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_trl", "_one_thread")
def test_grpo_trains_on_the_rewards_as_judged(tmp_path):
    flames = BrokenSandbox(shared("local"), trigger="x-x")
    env = MiniCode(sandbox=flames)
    problem = env.problem(env.problem_ids[0])
    a, b = problem.target
    right, wrong, unjudged = f"x*{a}+{b}", f"x*{a}-{b}", "x-x"
    prompt = chat(tokenizer([]), problem.messages)
    answers = [f"{answer}<|im_end|>" for answer in (right, wrong, unjudged)]
    taught(tmp_path, [[(prompt, False), (answer, True)] for answer in answers])
    before = weights(tmp_path)
    reward = adapter.reward_function(env)
    trainer, steps = grpo(
        tmp_path,
        generations=16,
        max_completion_length=12,
        reward_funcs=[reward],
        train_dataset=adapter.dataset(env, problem_ids=[problem.id]),
    )
    for completions, rows in steps:
        answers = [adapter.answer_text(completion) for completion in completions]
        assert {right, wrong, unjudged} <= set(answers)
        for answer, row in zip(answers, rows, strict=True):
            if answer == unjudged:
                assert (row["MiniCode"], row["advantage"]) == (None, 0)
            else:
                verdict = env.verdict(problem, answer)
                assert row["MiniCode"] == verdict.reward
                assert row["MiniCode/feedback"] == verdict.feedback
                assert row["MiniCode/status"] == verdict.status
        # The mean that advantages are taken from is that of the judged answers alone.
        assert sum(row["advantage"] for row in rows) == pytest.approx(0, abs=1e-4)
    assert reward.last_feedback == [row["MiniCode/feedback"] for row in rows]
    share = trainer.state.log_history[1]["MiniCode/unjudged"]
    assert share == pytest.approx(answers.count(unjudged) / len(answers))
    after = trainer.model.parameters()
    assert any((old != new).any() for old, new in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("_trl", "_one_thread")
def test_grpo_plays_several_turns_with_the_feedback_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    env = Doubling(max_turns=3)
    factory = adapter.environment_factory(env)
    tool, problem = factory(), env.problem("3")
    *system, user = problem.messages
    user = user | {"content": user["content"] + tool.reset(problem_id="3")}
    prompt = chat(tokenizer([]), [*system, user], tools=[tool.submit])
    pieces = [(prompt, False)]
    for answer in ("5", "6"):
        pieces += [(called(answer), True), (told(tool.submit(answer)), False)]
    taught(tmp_path, [[*pieces, ("Done.<|im_end|>", True)]])
    trainer, steps = grpo(
        tmp_path,
        generations=8,
        max_completion_length=300,
        environment_factory=factory,
        train_dataset=adapter.dataset(env, problem_ids=["3"]),
    )
    repaired = 0
    for completions, rows in steps:
        for completion, row in zip(completions, rows, strict=True):
            replay = factory()
            replay.reset(problem_id="3")
            for call, result in calls_and_results(completion):
                if not result.startswith("{'error'"):  # TRL's words for a call of no such tool
                    assert result == replay.submit(**call)
            assert row["ToolEnvironment"] == replay.get_reward()
            repaired += replay.feedback == ["5 is not it.", "Right."]
    assert repaired >= 1
    assert trainer.state.log_history[1]["tools/call_frequency"] > 0


def grpo(folder, *, generations, max_completion_length, reward_funcs=(), **arguments):
    """TRL's trainer after two steps with the model in the folder, and for each step the completions
    and the rows that TRL has logged of them."""
    import pyarrow.parquet
    from trl import GRPOConfig, GRPOTrainer

    steps = []

    def record(completions, **_):
        steps.append(completions)
        return [None] * len(completions)

    trainer = GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=[*reward_funcs, record],
        args=GRPOConfig(
            output_dir=str(folder),
            max_steps=2,
            per_device_train_batch_size=generations,
            num_generations=generations,
            max_completion_length=max_completion_length,
            learning_rate=1e-4,
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            log_completions=True,
            num_completions_to_print=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        **arguments,
    )
    trainer.train()
    assert trainer.state.global_step == 2
    tables = map(pyarrow.parquet.read_table, sorted((folder / "completions").glob("*.parquet")))
    return trainer, list(zip(steps, [table.to_pylist() for table in tables], strict=True))


def calls_and_results(messages):
    """The arguments of each call of a tool, and what the tool said."""
    for before, message in itertools.pairwise(messages):
        if message["role"] == "tool":
            (call,) = before["tool_calls"]
            yield call["function"]["arguments"], message["content"]


def chat(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **options
    )


def called(answer):
    call = json.dumps({"name": "submit", "arguments": {"answer": answer}})
    return f"<tool_call>\n{call}\n</tool_call><|im_end|>"


def told(text):
    """How Qwen3's chat template shows the result of a tool, up to the next answer."""
    return (
        f"\n<|im_start|>user\n<tool_response>\n{text}\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def tokenizer(texts):
    """Bytes, and whatever words the texts repeat, with the chat template of Qwen3."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    from trl.chat_template_utils import qwen3_chat_template

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        chat_template=qwen3_chat_template,
    )


def taught(folder, conversations, steps=150):
    """Saves a tiny model that says by heart, one as likely as another, what is marked True."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    words = tokenizer(["".join(text for text, _ in pieces) for pieces in conversations])
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=16,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    examples = []
    for pieces in conversations:
        parts = [(words(text, add_special_tokens=False).input_ids, said) for text, said in pieces]
        ids = torch.tensor([token for part, _ in parts for token in part])
        said = torch.tensor([said for part, said in parts for _ in part])
        examples.append((ids[None], torch.where(said, ids, -100)[None]))
    for _ in range(steps):
        loss = sum(model(input_ids=ids, labels=labels).loss for ids, labels in examples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")


def weights(folder):
    from transformers import AutoModelForCausalLM

    return list(AutoModelForCausalLM.from_pretrained(folder / "model").parameters())


@pytest.mark.parametrize("name", ["trl_grpo", "trl_sdpo"])
@pytest.mark.usefixtures("_trl", "_one_thread")
def test_the_example_trains_and_saves_a_model(name, tmp_path):
    problem = MiniCode().problem(MiniCode().problem_ids[0])
    prompt = chat(tokenizer([]), problem.messages)
    taught(tmp_path, [[(prompt, False), ("x*1+1<|im_end|>", True)]], steps=5)
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    example = SourceFileLoader(name, str(path)).load_module()
    out = tmp_path / "out"
    trainer = example.main(
        example.Options(
            model=str(tmp_path / "model"), out=str(out), steps=2, batch_size=8, group_size=4
        )
    )
    assert trainer.state.global_step == 2
    assert (out / "model.safetensors").is_file()
    if name == "trl_grpo":
        assert list((out / "completions").glob("*.parquet"))


# TRL: its SDPO


@pytest.mark.usefixtures("_trl", "_one_thread")
def test_the_teacher_of_each_attempt_reads_the_feedback_on_that_attempt(tmp_path):
    env = MiniCode(sandbox=BrokenSandbox(shared("local"), trigger="x-x"))
    problem = env.problem(env.problem_ids[0])
    a, b = problem.target
    right, unjudged, wrong = f"x*{a}+{b}", "x-x", [f"x*{a}-{b}", "x*"]
    feedback = [env.verdict(problem, answer).feedback for answer in (right, *wrong)]
    assert len(set(feedback)) == 3  # texts tell whose feedback it is
    prompt = chat(tokenizer([]), problem.messages)
    said = [f"{answer}<|im_end|>" for answer in (right, *wrong, unjudged)]
    taught(tmp_path, [[(prompt, False), (answer, True)] for answer in said])
    before = weights(tmp_path)
    trainer, batches = sdpo(tmp_path, env, [problem.id], distillation_weight=0.5)
    for batch in batches:
        answers = trainer.processing_class.batch_decode(
            batch["completion_ids"], skip_special_tokens=True
        )
        assert {right, *wrong, unjudged} <= set(answers)
        verdicts = [None if a == unjudged else env.verdict(problem, a) for a in answers]
        for i, (verdict, mask) in enumerate(
            zip(verdicts, batch["self_distillation_mask"].tolist(), strict=True)
        ):
            others = [
                a for j, a in enumerate(answers) if j != i and verdicts[j] and verdicts[j].solved
            ]
            failed = verdict is not None and not verdict.solved
            shown = f"{answers[i]}? {verdict.feedback}" if failed else None
            messages = teacher_messages(trainer.args, problem, others[:1], shown)
            assert teacher_prompt(trainer, batch, i) == chat(trainer.processing_class, messages)
            assert mask == (verdict is not None and bool(others or shown))
        assert batch["advantages"].tolist() == pytest.approx(
            advantages([verdict and verdict.reward for verdict in verdicts]), abs=1e-5
        )
    assert all(r["self_distillation/distillation_loss"] for r in trainer.state.log_history[:2])
    after = trainer.model.parameters()
    assert any((old != new).any() for old, new in zip(before, after, strict=True))


def sdpo(folder, env, problem_ids, **options):
    """Our trainer after two steps with the model in the folder, and the batches of its losses."""
    from trl.experimental.sdpo import SDPOConfig

    from vpd_envs.adapters.trl_sdpo import FeedbackSDPOTrainer

    batches = []

    class Recording(FeedbackSDPOTrainer):
        def compute_loss(self, model, inputs, *arguments, **more):
            batches.append(inputs)
            return super().compute_loss(model, inputs, *arguments, **more)

    trainer = Recording(
        model=str(folder / "model"),
        wording=lambda answer, verdict: f"{answer}? {verdict.feedback}",
        reward_funcs=adapter.reward_function(env),
        train_dataset=adapter.dataset(env, problem_ids=problem_ids),
        args=SDPOConfig(
            output_dir=str(folder),
            max_steps=2,
            per_device_train_batch_size=32,
            num_generations=32,
            max_completion_length=12,
            learning_rate=1e-4,
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            include_environment_feedback=True,
            **options,
        ),
    )
    trainer.train()
    assert len(batches) == 2
    return trainer, batches


def teacher_messages(config, problem, solutions, feedback):
    """The prompt with a solution and the feedback, as the templates of TRL's config word them."""
    *before, asked = problem.messages
    if not solutions and feedback is None:
        return problem.messages
    text = config.reprompt_template.format(
        prompt=asked["content"],
        solution="".join(
            config.solution_template.format(successful_previous_attempt=s) for s in solutions
        ),
        feedback="" if feedback is None else config.feedback_template.format(feedback_raw=feedback),
    )
    return [*before, asked | {"content": text}]


def teacher_prompt(trainer, batch, row):
    length = batch["teacher_input_ids"].shape[1] - batch["completion_ids"].shape[1]
    ids, mask = (
        batch["teacher_input_ids"][row, :length],
        batch["teacher_attention_mask"][row, :length],
    )
    return trainer.processing_class.decode(ids[mask.bool()])


def advantages(rewards):
    """Of one group, as TRL takes them, had the rewards of None never been sampled."""
    known = [reward for reward in rewards if reward is not None]
    mean, deviation = statistics.fmean(known), statistics.stdev(known)
    return [0 if reward is None else (reward - mean) / (deviation + 1e-4) for reward in rewards]


@pytest.mark.usefixtures("_trl")
def test_sdpo_takes_advantages_from_what_is_known_alone():
    torch = pytest.importorskip("torch")
    from vpd_envs.adapters.trl_sdpo import group_advantages

    nan = float("nan")
    rewards = torch.tensor([1.0, 0.0, nan, 0.5, nan, nan, 1.0, nan])
    first = advantages([1.0, 0.0, None, 0.5])
    of_groups = group_advantages(rewards, 4, "group").tolist()
    assert of_groups == pytest.approx([*first, 0, 0, 0, 0], abs=1e-5)
    unscaled = group_advantages(rewards, 4, "none")
    assert unscaled.tolist() == pytest.approx([0.5, -0.5, 0, 0, 0, 0, 0, 0], abs=1e-4)
    deviation = statistics.stdev([1.0, 0.0, 0.5, 1.0])
    of_batch = group_advantages(rewards, 4, "batch")
    assert of_batch[:2].tolist() == pytest.approx([0.5 / deviation, -0.5 / deviation], abs=1e-3)


@pytest.mark.usefixtures("_trl", "_one_thread")
def test_sdpo_without_feedback_or_without_our_reward_is_refused(tmp_path):
    from trl.experimental.sdpo import SDPOConfig

    from vpd_envs.adapters.trl_sdpo import FeedbackSDPOTrainer

    taught(tmp_path, [[("a", False), ("b", True)]], steps=0)

    def trainer(reward, **options):
        config = SDPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **options)
        rows = adapter.dataset(Doubling())
        return FeedbackSDPOTrainer(str(tmp_path / "model"), reward, config, rows)

    with pytest.raises(ValueError, match=r"set SDPOConfig\(include_environment_feedback=True\)"):
        trainer(adapter.reward_function(Doubling()))
    with pytest.raises(ValueError, match=r"one reward function of .*reward_function.*got 0"):
        trainer(
            lambda completions, **_: [0.0] * len(completions), include_environment_feedback=True
        )


# ms-swift


def swift_sample(row, answer):
    """An attempt at a row, as ms-swift keeps it; where ms-swift is installed, its own class."""
    try:
        from swift.rl_core.data import GRPOSample
    except ImportError:
        row = dict(row)
        sample = SimpleNamespace(messages=row.pop("messages"), extra=row, teacher_prompt=None)
    else:
        sample = GRPOSample.from_row(row)
    sample.messages.append({"role": "assistant", "content": answer})
    return sample


def swift_reward_arguments(samples):
    """What ms-swift passes to a reward beside the answers: `compute_rewards_per_func` in its
    rl_core/grpo_algorithm.py, with the columns of `OnPolicySample.to_reward_row`."""
    columns = {
        "trainer_state": None,
        "messages": [sample.messages for sample in samples],
        "request_id": [f"chatcmpl-{i}" for i in range(len(samples))],
        "rollout_infos": [{} for _ in samples],
    }
    return columns | {"problem_id": [sample.extra["problem_id"] for sample in samples]}


class SwiftGRPO:
    """As ms-swift's GRPO trainer judges: rewards [N, functions], NaN where one gave None."""

    def __init__(self, *reward_funcs, num_generations=4):
        self.reward_funcs, self.num_generations = list(reward_funcs), num_generations
        self.num_generations_eval = num_generations
        self.model = SimpleNamespace(training=True)

    def _compute_rewards_per_func(self, samples):
        import torch

        answers = [sample.messages[-1]["content"] for sample in samples]
        columns = swift_reward_arguments(samples)
        given = [function(answers, **columns) for function in self.reward_funcs]
        nan = float("nan")
        rewards = [[nan if r is None else r for r in rewards] for rewards in given]
        return torch.tensor(rewards).reshape(len(given), len(samples)).T


class SwiftGKD:
    def _score_completions(self, samples):
        return samples


def swift_samples(path, env, answers):
    swift.write_dataset(path, env, problem_ids=["3"])
    (line,) = path.read_text().splitlines()
    return [swift_sample(json.loads(line), answer) for answer in answers]


def test_ms_swifts_data_set_has_a_row_per_problem_and_no_answer(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert swift.write_dataset(path, Doubling(numbers=(31, 47))) == 2
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    system = {"role": "system", "content": "Be brief."}
    assert rows[1] == {
        "messages": [system, {"role": "user", "content": "Double 47."}],
        "problem_id": "47",
    }
    assert "94" not in path.read_text()
    before = path.read_text()
    with pytest.raises(ValueError, match="No problem has the id '8'"):
        swift.write_dataset(path, Doubling(), problem_ids=["3", "8"])
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_ms_swifts_teacher_reads_the_feedback_on_each_attempt(tmp_path):
    pytest.importorskip("torch")
    samples = swift_samples(
        tmp_path / "rows.jsonl", Doubling(), ["<think>\n\n</think>\n\n7", "6", BROKEN, "(6)"]
    )
    reward = swift.VPDReward(Doubling(), failed="{prompt} {answer}? {feedback}")
    trainer = swift.grpo_with_feedback(SwiftGRPO, reward)(reward)
    rewards = trainer._compute_rewards_per_func(samples)
    assert [sample.teacher_prompt for sample in samples] == [
        "Double 3. 7? 7 is not it.", "Double 3.", "Double 3.", "Double 3. (6)? Without brackets."
    ]  # fmt: skip
    # What could not be judged has the mean of the group's others: no advantage, and not 0.
    assert rewards[:, 0].tolist() == [0.0, 1.0, 0.5, 0.5]


def test_ms_swifts_trainers_without_a_reward_have_their_attempts_judged(tmp_path):
    pytest.importorskip("torch")
    reward = swift.VPDReward(Doubling())
    for trainer in (
        swift.grpo_with_feedback(SwiftGRPO, reward)()._compute_rewards_per_func,
        swift.gkd_with_feedback(SwiftGKD, reward)()._score_completions,
    ):
        samples = swift_samples(tmp_path / "rows.jsonl", Doubling(), ["7", "6", "6", "5"])
        trainer(samples)
        assert [s.teacher_prompt == "Double 3." for s in samples] == [False, True, True, False]
        assert "earlier attempt:\n\n7 is not it.\n\nCorrectly" in samples[0].teacher_prompt
        if hasattr(samples[0], "build_teacher_view"):
            samples[0].build_teacher_view()
            asked = samples[0].teacher_messages[1]
            assert asked == {"role": "user", "content": samples[0].teacher_prompt}


def test_gaps_in_rewards_are_filled_where_no_function_knows_one():
    torch = pytest.importorskip("torch")
    nan = float("nan")
    rewards = torch.tensor([[1.0, nan], [nan, nan], [0.0, 4.0], [nan, nan], [nan, nan], [nan, nan]])
    filled = swift.without_gaps(rewards, 3)
    assert filled[:3].nan_to_num(-1).tolist() == [[1.0, -1], [0.5, 4.0], [0.0, 4.0]]
    assert filled[3:].isnan().all()
    assert swift.without_gaps(torch.zeros(6, 0), 3).shape == (6, 0)


def test_ms_swifts_reward_refuses_rows_that_are_not_ours_and_a_judge_that_is_ill():
    reward = swift.VPDReward(Doubling())
    assert reward(["6", BROKEN], problem_id=["3", "3"], trainer_state=None) == [1.0, None]
    for columns in ({}, {"problem_id": ["3", None]}):
        with pytest.raises(ValueError, match=r"'problem_id'.*write_dataset"):
            reward(["6", "6"], **columns)
    with pytest.raises(SandboxError, match="None of 1 answers could be judged"):
        reward([BROKEN], problem_id=["3"])
    with pytest.raises(KeyError, match="solution"):
        swift.VPDReward(Doubling(), failed="{solution}")


def test_a_plugin_registers_the_reward_and_the_trainers(monkeypatch, tmp_path):
    factory = SimpleNamespace(TRAINER_MAPPING={"dpo": "swift.rlhf_trainers.DPOTrainer"})
    rewards = {}
    for name, module in {
        "swift": {},
        "swift.rewards": {"orms": rewards},
        "swift.rlhf_trainers": {"GRPOTrainer": SwiftGRPO, "GKDTrainer": SwiftGKD},
        "swift.trainers": {"TrainerFactory": factory},
    }.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**module))
    install(monkeypatch, tmp_path, "ms_swift", "4.6.0")
    reward = swift.register(Doubling(), name="doubling")
    assert rewards["doubling"](args=None) is reward
    found = {}  # as swift.trainers.TrainerFactory.get_cls does
    for method in ("grpo", "gkd"):
        module, name = factory.TRAINER_MAPPING[method].rsplit(".", 1)
        found[method] = getattr(importlib.import_module(module), name)
    assert issubclass(found["grpo"], SwiftGRPO)
    assert issubclass(found["gkd"], SwiftGKD)
    monkeypatch.delattr(SwiftGKD, "_score_completions")
    with pytest.raises(
        ImportError, match=r"SwiftGKD .* has no _score_completions.*ms-swift==4.6.0"
    ):
        swift.register(Doubling())


def test_a_missing_or_other_ms_swift_is_named_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ImportError, match=r"not installed: .*pip install 'ms-swift>=4\.6,<5'"):
        swift.register(Doubling())
    install(monkeypatch, tmp_path, "ms_swift", "4.5.3")
    with pytest.raises(ImportError, match=r"ms-swift 4\.6 and later .* 4\.5\.3 is installed"):
        swift.register(Doubling())


def install(monkeypatch, folder, name, version):
    """A package's metadata, before all others on the path."""
    (folder / f"{name}-{version}.dist-info").mkdir()
    metadata = f"Name: {name}\nVersion: {version}\n"
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(metadata)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    importlib.invalidate_caches()


# verifiers


TASKS = """
from vpd_envs.adapters.verifiers import VPDEnv, VPDTaskset
__all__ = ["VPDEnv", "VPDTaskset"]
"""
# Verifiers' own chat program is started with uv, which fetches packages; this one runs here.
HARNESS = """
import httpx, verifiers.v1 as vf
from verifiers.v1.dialects.chat import message_to_wire
__all__ = ["Chat"]

class Chat(vf.Harness[vf.HarnessConfig]):
    APPENDS_SYSTEM_PROMPT = SUPPORTS_RESUME = True
    EXECUTES_CODE = NEEDS_CONTAINER = False

    async def launch(self, ctx, trace, runtime, endpoint, secret, mcp_urls, data):
        system, prompt = self.resolve_prompt(data)
        if isinstance(prompt, str):
            prompt = [vf.UserMessage(content=prompt)]
        if system:
            prompt = [vf.SystemMessage(content=system), *prompt]
        async with httpx.AsyncClient() as client:
            response = await client.post(
                f"{endpoint}/chat/completions",
                headers={"Authorization": f"Bearer {secret}"},
                json={"model": ctx.model, "messages": [message_to_wire(m) for m in prompt]},
            )
        response.raise_for_status()
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")
"""


class Model(BaseHTTPRequestHandler):
    """An endpoint whose model gives the server's answers, one after the other, in every chat."""

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        turn = sum(message["role"] == "assistant" for message in request["messages"])
        message = {"role": "assistant", "content": self.server.answers[turn]}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": request["model"],
                "choices": [choice],
                "usage": usage,
            }
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Plays the problem 3 of Doubling, or of another such environment, with a model of given
    answers; gives the episode."""
    vf = pytest.importorskip("verifiers.v1")
    (tmp_path / "our_tasks.py").write_text(TASKS)
    (tmp_path / "our_chat.py").write_text(HARNESS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def play(answers, environment="Doubling-v0", **options):
        server.answers = answers
        config = vf.resolve_env_config(
            {
                "taskset": {
                    "id": "our_tasks",
                    "environment": environment,
                    "options": {"numbers": [3, 4], **options},
                },
                "agent": {"harness": {"id": "our_chat"}},
            }
        )
        env = vf.load_environment(config)
        client = vf.EvalClientConfig(
            base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key_var="NO_KEY"
        )
        context = vf.ModelContext(model="m", client=client, sampling=vf.SamplingConfig())

        async def episode():
            async with env.serving():
                (slot,) = env.slots(next(iter(env.taskset)))
                return await env.run_slot(slot, context)

        return asyncio.run(episode())

    yield play
    server.shutdown()
    server.server_close()


def said(trace):
    return [(message.role, message.content) for message in trace.messages]


def test_verifiers_scores_an_answer_with_our_verdict(play):
    (trace,) = play(["(6)"]).traces
    assert said(trace) == [("system", "Be brief."), ("user", "Double 3."), ("assistant", "(6)")]
    assert (trace.ok, trace.reward) == (True, 0.5)
    assert trace.metrics["solved"] == 0.0
    assert trace.info == {"status": "wrong_answer", "feedback": "Without brackets."}


def test_verifiers_plays_the_feedback_as_the_next_message(play, monkeypatch):
    judged = []
    judge = Doubling.judge
    monkeypatch.setattr(Doubling, "judge", lambda *a: judged.append(a[2]) or judge(*a))
    (trace,) = play(["5", "6", "7"], max_turns=3).traces
    assert judged == ["5", "6"]
    assert said(trace)[2:] == [
        ("assistant", "5"),
        ("user", "5 is not it."),
        ("assistant", "6"),
    ]
    assert (trace.reward, trace.metrics["solved"], trace.info["status"]) == (1.0, 1.0, "solved")


def test_verifiers_plays_what_depends_on_the_earlier_answers(play):
    (trace,) = play(["6", "6"], "Insisting-v0", max_turns=3).traces
    assert said(trace)[2:] == [("assistant", "6"), ("user", "Sure?"), ("assistant", "6")]
    assert (trace.reward, trace.info["status"]) == (1.0, "solved")
    (trace,) = play(["6", "5"], "Insisting-v0", max_turns=2).traces
    assert (trace.reward, trace.info["feedback"]) == (0.0, "5 is not it.")


def test_verifiers_ends_an_episode_after_the_last_turn(play):
    (trace,) = play(["1", "2", "6"], max_turns=2).traces
    assert [content for role, content in said(trace) if role == "assistant"] == ["1", "2"]
    assert (trace.ok, trace.reward) == (True, 0.0)


@pytest.mark.parametrize("answers", [[BROKEN], ["5", BROKEN, "6"], ["5", "7", BROKEN]])
def test_verifiers_gets_no_reward_for_what_could_not_be_judged(play, answers):
    episode = play(answers, max_turns=len(answers))
    (trace,) = episode.traces
    assert not episode.ok
    assert not trace.ok
    assert trace.rewards.get("verdict") is None
    assert trace.last_error.type == "SandboxError"
    assert "The judge is ill" in trace.last_error.message


def test_verifiers_sees_every_problem_and_no_answer(play):
    import verifiers.v1 as vf

    block = {"environment": "Doubling-v0", "options": {"numbers": [31, 47]}}
    config = vf.resolve_env_config({"taskset": {"id": "our_tasks", **block}})
    tasks = list(vf.load_taskset(config.taskset))
    assert [task.key for task in tasks] == ["31", "47"]
    assert "94" not in json.dumps([task.data.model_dump(mode="json") for task in tasks])
    nothing = vf.resolve_env_config({"taskset": {"id": "our_tasks"}})
    with pytest.raises(ValueError, match="no environment: set"):
        list(vf.load_taskset(nothing.taskset))


def test_a_missing_verifiers_is_named_with_what_to_install():
    try:
        import verifiers  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"pip install 'verifiers>=0\.4'"):
            importlib.import_module("vpd_envs.adapters.verifiers")
    else:
        pytest.skip("verifiers is installed")
