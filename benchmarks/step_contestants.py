"""The contestants of train_step.py: training loops that stop after each step and wait to be asked.

Each lives in a process of its own, builds the same model from the same seed, is given the same
problems, rewards and feedback, and takes its times itself. No response ever ends by itself, and
nobody pays for that: the end-of-sequence token of the tokenizer is one that the model has no row
for. So all responses have the length that the setting says.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import resource
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from remote import Missing, Process

ANSWER_SECONDS = 1800.0  # for starting, or for the steps of one turn
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
PROBLEMS = 64
FOREVER = 10**7  # steps
PR_SET_PDEATHSIG = 1
# Made by .ci/vllm: vLLM's CPU build asks for another transformers than ours.
VLLM_PYTHON = (
    Path(__file__).parent.parent / os.environ.get("VLLM_VENV", ".venv-vllm") / "bin/python"
)

# What TRL's trainer fills in by default with the feedback of a failed attempt; ours uses the same
# for all attempts here, so that both teachers read prompts of the same length.
TEMPLATE = (
    "{prompt}\n\nThe following is feedback from your unsuccessful earlier attempt:\n\n"
    "{feedback}\n\nCorrectly solve the original question.\n"
)


@dataclass(frozen=True)
class Setting:
    """What all contestants of a table have in common."""

    tokens: int  # of each response
    prompt_characters: int
    feedback_characters: int
    prompts: int = 8
    group: int = 8
    steps: int = 5  # of a turn; VPD has an E-step every 5 steps
    model: str = "tiny"
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    micro_batch: int | None = None  # rollouts per pass; None: all at once
    clock: str = "wall"
    seed: int = 0

    @property
    def rollouts(self) -> int:
        return self.prompts * self.group


# train_step.py's side -----------------------------------------------------------------------------


class Remote(Process):
    """A contestant's process as train_step.py sees it.

    about: versions and shapes, measured and not assumed.
    """

    def __init__(self, name: str, setting: Setting) -> None:
        self.name = name
        offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        threads = {"OMP_NUM_THREADS": str(setting.threads)}
        super().__init__(
            "step_contestants",
            (name, setting),
            answer_seconds=ANSWER_SECONDS,
            environment=offline | threads,
            python=VLLM_PYTHON if name.endswith("vLLM") else sys.executable,
        )

    def turn(self, steps: int) -> dict[str, Any]:
        """So many steps on end: {"steps": [{"seconds": …}, …], "peak_bytes": …}."""
        return self.ask(steps)


# The contestant's side ----------------------------------------------------------------------------


def serve(fd: int) -> None:
    """Become the contestant that is asked for, and step until the benchmark hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for train_step.py, which hangs up
    # A step can take minutes: if train_step.py is killed, the kernel ends this process with it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    connection = Connection(fd)
    name, setting = connection.recv()
    import torch

    torch.set_num_threads(setting.threads)
    try:
        contestant = CONTESTANTS.get(name) or ours(name.removesuffix(", ours"))
        contestant(setting, Turns(connection, setting))
    except (ImportError, Missing, torch.OutOfMemoryError) as error:
        connection.send(("missing", f"{type(error).__name__}: {error}".splitlines()[0]))


class Positions:
    """Counts the positions that go through the models of this process, padding included: those that
    a gradient is taken of, and the others."""

    def __init__(self) -> None:
        from torch.nn.modules.module import register_module_forward_pre_hook

        self._counted: Counter[str] = Counter()
        register_module_forward_pre_hook(self._count)

    def of_this_step(self) -> dict[str, float]:
        """Since it was last asked."""
        counted, self._counted = self._counted, Counter()
        return dict(counted)

    def _count(self, module: Any, args: tuple[Any, ...]) -> None:
        import torch

        if isinstance(module, torch.nn.Embedding):
            kind = "trained" if torch.is_grad_enabled() else "read"
            self._counted[kind] += args[0].numel()


class Turns:
    """Between the benchmark's questions and a loop that steps: times the steps that are asked for.

    The loop calls `done` at the end of each step. The first step is its warm-up; after it, `about`
    is told.
    """

    def __init__(self, connection: Connection, setting: Setting) -> None:
        self.about: dict[str, Any] = {}
        self._connection = connection
        self._setting = setting
        self._clock = CLOCKS[setting.clock]
        self._steps: list[dict[str, float]] | None = None  # of this turn; None: no turn yet
        self._asked = 0
        self._started = 0.0

    def done(self, **phases: float) -> None:
        """The step that began when the last one was done has ended. phases: seconds of its parts.

        Ends the process when the benchmark has hung up.
        """
        if self._setting.device != "cpu":
            import torch

            torch.cuda.synchronize()
        if self._steps is None:
            self._connection.send(("about", self.about))
            self._wait()
        else:
            self._steps.append({"seconds": self._clock() - self._started, **phases})
            if len(self._steps) == self._asked:
                answer = {"steps": self._steps, "peak_bytes": self._peak_bytes()}
                self._connection.send(("turn", answer))
                self._wait()
        self._started = self._clock()

    def _wait(self) -> None:
        try:
            self._asked = self._connection.recv()
        except EOFError:
            sys.exit()
        self._steps = []

    def _peak_bytes(self) -> int:
        """The most that was allocated on the device; on the CPU, the process's largest size."""
        if self._setting.device == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        import torch

        return torch.cuda.max_memory_allocated()


# What all are given -------------------------------------------------------------------------------


def prompt_text(index: int, setting: Setting) -> str:
    return filled(f"Problem {index:03}: write an expression. ", setting.prompt_characters)


def feedback_text(index: int, setting: Setting, attempt: str = "") -> str:
    """Of problem `index`; with an attempt, one of its own for each attempt, and just as long."""
    mark = f"{zlib.crc32(attempt.encode()):08x}" if attempt else "00000000"
    return filled(f"Test {index:03} failed, got {mark}. ", setting.feedback_characters)


def filled(start: str, length: int) -> str:
    return (start + "The hidden tests of this problem ask for more. " * (length // 40 + 1))[:length]


def reward_of(answer: str) -> float:
    """Of half of all answers 1, of the others 0."""
    return float(zlib.crc32(answer.encode()) % 2)


def policy_of(setting: Setting):
    """The model, with a tokenizer whose responses never end. Weights are random but smollm2's."""
    import torch

    from vpd_agent.model.policy import Policy
    from vpd_agent.tiny.model import tiny_policy

    never = "<|never|>"
    if setting.model == "smollm2":
        policy = Policy.load(setting.model)
        model, tokenizer = policy.model, policy.tokenizer
    else:
        policy = tiny_policy(setting.seed)
        model, tokenizer = policy.model, policy.tokenizer
        if setting.model == "0.6b":
            model = qwen3_of_600_million(setting.seed)
            tokenizer = filled_up(tokenizer, model.config.vocab_size)
        tokenizer.chat_template = tokenizer.chat_template.replace(tokenizer.eos_token, never)
    tokenizer.add_special_tokens({"eos_token": never})
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    policy = Policy(model.to(setting.device, getattr(torch, setting.dtype)), tokenizer)
    # SmolLM2's chat template ends an answer with a token that its prompts have, too.
    policy.eos_ids = frozenset({tokenizer.eos_token_id})
    if min(policy.eos_ids) < model.config.vocab_size:
        raise AssertionError("The end-of-sequence token must be one that the model cannot say.")
    return policy


def qwen3_of_600_million(seed: int):
    """The shape of Qwen3-0.6B, with random weights."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    return Qwen3ForCausalLM(config)


def filled_up(tokenizer, size: int):
    """The same with `size` tokens, so that whatever is sampled can be decoded."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary, special = state["model"]["vocab"], len(state["added_tokens"])  # these come last
    vocabulary |= {f"t{n}": n for n in range(len(vocabulary), size - special)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        pad_token=tokenizer.pad_token,
        chat_template=tokenizer.chat_template,
        clean_up_tokenization_spaces=False,
    )


def shapes(prompt, teacher_prompt, response_mask) -> dict[str, int]:
    """What a step was about. All: [B, tokens], of the whole batch. Of the responses the length of
    the shortest."""
    return {
        "rollouts": len(response_mask),
        "prompt_tokens": prompt.shape[1],
        "teacher_prompt_tokens": 0 if teacher_prompt is None else teacher_prompt.shape[1],
        "response_tokens": int(response_mask.sum(1).min()),
    }


# Ours ---------------------------------------------------------------------------------------------


def our_trainer(setting: Setting, algorithm, *, own_feedback: bool = False):
    """A Trainer with nothing switched off but evaluations and files."""
    from vpd_agent.rollout.teacher_prompt import TeacherTemplate
    from vpd_agent.train.config import TrainConfig
    from vpd_agent.train.trainer import Trainer
    from vpd_envs import Problem, Status, TextEnv, Verdict

    class Free(TextEnv):
        """Judges at no cost."""

        def judge(self, problem: Problem, answer: str) -> Verdict:
            attempt = answer if own_feedback else ""
            feedback = feedback_text(problem.target, setting, attempt)
            return Verdict(reward_of(answer), Status.WRONG_ANSWER, feedback)

    problems = [Problem(f"p{i}", prompt_text(i, setting), i) for i in range(PROBLEMS)]
    config = TrainConfig(
        steps=FOREVER,
        prompts_per_step=setting.prompts,
        group_size=setting.group,
        micro_batch_size=setting.micro_batch,
        max_response_tokens=setting.tokens,
        eval_every=0,
        save_every=0,
        seed=setting.seed,
    )
    return Trainer(
        policy_of(setting),
        algorithm,
        Free.vector(setting.rollouts, problems=problems),
        config,
        template=TeacherTemplate(turn="{feedback}", failed=TEMPLATE, solved=TEMPLATE),
        progress=False,
    )


def train_ours(setting: Setting, turns: Turns, algorithm, *, own_feedback: bool = False) -> None:
    """Trainer.train, step after step."""
    trainer = our_trainer(setting, algorithm, own_feedback=own_feedback)
    positions, start = Positions(), "seconds/"

    def on_step(row: dict[str, Any]) -> None:
        counted = positions.of_this_step()
        if not turns.about:
            turns.about = our_shapes(trainer)
            positions.of_this_step()
        seconds = {k.removeprefix(start): v for k, v in row.items() if k.startswith(start)}
        turns.done(**seconds, **counted)

    trainer.on_step = on_step
    trainer.train()


def our_shapes(trainer) -> dict[str, Any]:
    batch = trainer.make_batch(trainer.collect().rollouts)
    teacher_prompt = None if trainer.teacher is None else batch.teacher_prompt
    return shapes(batch.prompt, teacher_prompt, batch.token_mask)


def ours(name: str, *, own_feedback: bool = False) -> Callable[[Setting, Turns], None]:
    """An algorithm of ours with its defaults, but a teacher that TRL has, too."""

    def contestant(setting: Setting, turns: Turns) -> None:
        train_ours(setting, turns, algorithm_of(name), own_feedback=own_feedback)

    return contestant


def algorithm_of(name: str):
    """Reverse KL over the whole vocabulary from an EMA teacher, where there is a teacher."""
    from vpd_agent.algorithms import ALGORITHMS

    distills = name in ("sdpo", "vpd")
    return ALGORITHMS[name](**({"teacher": "ema", "alpha": 1.0} if distills else {}))


def vpd_beside_sdpo(setting: Setting, turns: Turns) -> None:
    """Both train on the same rollouts, one after the other.

    Phases: collect, sdpo, vpd; e_steps: 1 where VPD made one.
    """
    clock = CLOCKS[setting.clock]
    sdpo, vpd = (our_trainer(setting, algorithm_of(name)) for name in ("sdpo", "vpd"))
    turns.about = our_shapes(sdpo)
    for step in itertools.count():
        started = clock()
        rollouts = sdpo.collect().rollouts
        phases = {"collect": clock() - started, "e_steps": e_steps(vpd)}
        for trainer in (sdpo, vpd) if step % 2 else (vpd, sdpo):
            started = clock()
            trainer.train_step(rollouts)
            phases[trainer.algorithm.name] = clock() - started
        turns.done(**phases)


def e_steps(trainer) -> int:
    """How many E-steps VPD's coming step has."""
    from vpd_agent.algorithms import Step

    losses = trainer.algorithm.losses(Step(trainer.step, trainer.config.steps))
    return sum(loss.name == "e_step" for loss in losses)


def bare_products(setting: Setting, turns: Turns) -> None:
    """The limit: the matrix products and attention of a step of SDPO of ours, alone."""
    from step_products import Recorded, Replay

    trainer = our_trainer(setting, algorithm_of("sdpo"), own_feedback=True)
    with Recorded() as recorded:
        trainer.train_step(trainer.collect().rollouts)
    replay = Replay(recorded.calls)
    turns.about = our_shapes(trainer) | {"flops": recorded.flops}
    del trainer
    while True:
        replay()
        turns.done()


def our_generation(setting: Setting, turns: Turns) -> None:
    """The engine alone: what `collect` asks it for."""
    from vpd_agent.engines.hf import HFEngine

    policy = policy_of(setting)
    engine = HFEngine(policy)
    prompts = generation_prompts(policy, setting)
    while True:
        done = engine.generate(prompts, samples=setting.group, max_tokens=setting.tokens)
        turns.about = {
            "rollouts": len(done),
            "prompt_tokens": max(map(len, prompts)),
            "response_tokens": min(len(g.ids) for g in done),
        }
        turns.done()


# The others ---------------------------------------------------------------------------------------


def bare_generation(setting: Setting, turns: Turns) -> None:
    """The limit: a plain torch loop with a KV cache, and nothing that training needs."""
    import torch
    from bare_generation import generate

    policy = policy_of(setting)
    prompts = torch.tensor(generation_prompts(policy, setting), device=setting.device)
    while True:
        ids = generate(policy.model, prompts, setting.group, setting.tokens)
        turns.about = {"rollouts": ids.shape[0], "response_tokens": ids.shape[1]}
        turns.done()


def vllm_generation(setting: Setting, turns: Turns) -> None:
    """vLLM with its defaults, on the same prompts as token ids."""
    from vllm import LLM, SamplingParams

    from vpd_agent.model import smollm2

    model = LLM(
        str(smollm2.model_folder()),
        dtype=setting.dtype,
        max_model_len=1024,
        max_num_seqs=setting.rollouts,
        enable_prefix_caching=True,
        seed=setting.seed,
    )
    sampling = SamplingParams(
        n=setting.group, max_tokens=setting.tokens, ignore_eos=True, detokenize=False
    )
    prompts = [{"prompt_token_ids": ids} for ids in generation_prompts(policy_of(setting), setting)]
    while True:
        done = model.generate(prompts, sampling, use_tqdm=False)
        lengths = [len(one.token_ids) for each in done for one in each.outputs]
        turns.about = {"rollouts": len(lengths), "response_tokens": min(lengths)}
        turns.done()


def generation_prompts(policy, setting: Setting) -> list[list[int]]:
    return [
        policy.encode([{"role": "user", "content": prompt_text(i, setting)}])
        for i in range(setting.prompts)
    ]


def trl_grpo(setting: Setting, turns: Turns) -> None:
    from trl import GRPOConfig, GRPOTrainer

    train_trl(setting, turns, GRPOTrainer, GRPOConfig)


def trl_sdpo(setting: Setting, turns: Turns) -> None:
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    head, feedback = "{prompt}", "\n\nThe following is feedback from your unsuccessful earlier "
    train_trl(
        setting,
        turns,
        SDPOTrainer,
        SDPOConfig,
        distillation_mode="full_logits",
        distillation_alpha=1.0,
        teacher_model_kind="ema",
        teacher_update_rate=0.05,
        include_environment_feedback=True,
        use_successful_as_teacher=False,  # demonstrations would make its teacher prompts longer
        reprompt_template=head + "{solution}{feedback}" + TEMPLATE.split("{feedback}")[1],
        feedback_template=feedback + "attempt:\n\n{feedback_raw}",
        diagnostics_warning_interval=0,
        max_prompt_length=None,
    )


def train_trl(setting: Setting, turns: Turns, trainer_class, config_class, **options) -> None:
    """`trainer.train()`, with everything off that a step can do without.

    Transformers' generate with its default cache: with a static cache it took as long here, with
    continuous batching twelve times as long (CPU).
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback

    class Stop(TrainerCallback):
        """Tells `turns` of the steps."""

        def on_step_end(self, args, state, control, **_):
            if not turns.about:
                turns.about = trl_shapes(trainer)
            turns.done(**positions.of_this_step())

    def rewards(completions, **_) -> list[float]:
        return [reward_of(completion[0]["content"]) for completion in completions]

    positions = Positions()
    rows = [
        {
            "prompt": [{"role": "user", "content": prompt_text(i, setting)}],
            "privileged_context": feedback_text(i, setting),
        }
        for i in range(PROBLEMS)
    ]
    micro_batch = setting.micro_batch or setting.rollouts
    with tempfile.TemporaryDirectory() as folder:
        policy_of(setting).save(folder)  # SDPO's trainer reads its teacher from a folder
        config = config_class(
            output_dir=f"{folder}/out",
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=setting.rollouts // micro_batch,
            num_generations=setting.group,
            max_completion_length=setting.tokens,
            max_steps=FOREVER,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            beta=0.0,
            temperature=1.0,
            disable_dropout=True,
            gradient_checkpointing=False,
            use_vllm=False,
            bf16=setting.dtype == "bfloat16",
            use_cpu=setting.device == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            seed=setting.seed,
            **options,
        )
        trainer = trainer_class(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, setting.dtype)),
            reward_funcs=[rewards],
            args=config,
            train_dataset=Dataset.from_list(rows * 200),  # an epoch longer than the benchmark
            processing_class=policy_of(setting).tokenizer,
            callbacks=[Stop()],
        )
        trainer.train()


def trl_shapes(trainer) -> dict[str, Any]:
    """From the inputs of the losses of the step."""
    import torch

    parts = trainer._buffered_inputs
    joined = {
        key: torch.cat([part[key] for part in parts])
        for key in ("prompt_ids", "completion_mask", "teacher_input_ids")
        if key in parts[0]
    }
    response_mask, teacher = joined["completion_mask"], joined.get("teacher_input_ids")
    if teacher is not None:
        teacher = teacher[:, : -response_mask.shape[1]]
    return shapes(joined["prompt_ids"], teacher, response_mask)


CONTESTANTS: dict[str, Callable[[Setting, Turns], None]] = {
    "sdpo, ours, feedback of its own": ours("sdpo", own_feedback=True),
    "grpo, TRL": trl_grpo,
    "sdpo, TRL": trl_sdpo,
    "generation, ours": our_generation,
    "generation, bare": bare_generation,
    "generation, vLLM": vllm_generation,
    "sdpo, bare products": bare_products,
    "vpd beside sdpo": vpd_beside_sdpo,
}
