"""vLLM inside the trainer's process, with a copy of the policy's weights."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sandbox.installation import install_hint
from vpd_agent.data.padding import pad_left, pad_right
from vpd_agent.distributed.world import Processes
from vpd_agent.engines import Engine, Generation, check_counts, up_to_stop_text
from vpd_agent.engines.weights import checkpoint_weights, save_config

if TYPE_CHECKING:
    from vpd_agent.model.policy import Policy

TEMPERATURES = (0.01, 2.0)  # vLLM silently raises lower ones, and refuses higher ones


class VLLMSampler:
    """What the two engines of vLLM have in common.

    Every token can be sampled: there is no top-p or top-k, whatever the model's generation_config
    says. A call's samples are the same for the same state of its generator (up to rounding, which
    depends on what else is in vLLM's batch).
    """

    logprobs_match_trainer = False
    max_model_len: int

    def __init__(self, policy: Policy) -> None:
        self._eos_ids = sorted(policy.eos_ids)
        self._chat = policy.chat

    def generate(
        self,
        prompts: Sequence[list[int]],
        *,
        samples: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> list[Generation]:
        """See `Engine`. Raises ValueError for requests that vLLM would refuse, cut, or sample at
        another temperature."""
        check_counts(samples, max_tokens)
        lowest, highest = TEMPERATURES
        if not lowest <= temperature <= highest:
            raise ValueError(
                f"temperature must be between {lowest} and {highest} with vLLM, got {temperature}."
            )
        longest = max(map(len, prompts), default=0)
        if longest + max_tokens > self.max_model_len:
            raise ValueError(
                f"A prompt of {longest} tokens and {max_tokens} of response do not fit into the "
                f"{self.max_model_len} tokens of vLLM's max_model_len. Make it longer, or the "
                f"prompt or response shorter."
            )
        settings = {
            "n": samples,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stop_token_ids": self._eos_ids,
            "ignore_eos": True,  # the policy says what ends a response, not vLLM's config
            "logprobs": 0,  # of the sampled token only
        }
        # vLLM adds the index of a sample to its prompt's seed, which must not overflow.
        device = generator.device if generator is not None else "cpu"
        seeds = torch.randint(1 << 62, (len(prompts),), generator=generator, device=device)
        generations = self._sample(prompts, seeds.tolist(), settings)
        return [up_to_stop_text(generation, self._chat) for generation in generations]

    def _sample(
        self, prompts: Sequence[list[int]], seeds: list[int], settings: dict[str, Any]
    ) -> list[Generation]:
        """settings: of each prompt's request, by the names that vLLM has for them."""
        raise NotImplementedError


class VLLMEngine(VLLMSampler):
    """Samples with vLLM in the trainer's process, on the same device.

    `sync` hands the policy's tensors to vLLM in memory, adapters merged; nothing is written.

    Tested with vLLM 0.32 on the CPU; the calls are the same on a GPU, but have not been run there.
    For runs of one process; several share a `VLLMServerEngine`. While it is open this process has a
    torch.distributed group of one, and on the CPU its memory is bound to one NUMA node: both are
    vLLM's doing.

    dtype: "float32", "bfloat16", "float16"; None: the policy's.
    max_model_len: most tokens of a prompt and its response together; None: what the model takes.
    gpu_memory_utilization: share of the device's memory for vLLM; on the CPU, of a memory node.
    kv_cache_bytes: memory for keys and values, instead of what is left of that share.
    enforce_eager: run without compiled graphs: a quick start, slower tokens. None: on the CPU.
    seed: of what is not drawn per request.

    Raises ValueError for settings that vLLM refuses, where vLLM is missing, and if it turns out to
    compute another model than the policy (as with mixtures of experts on the CPU, whose weights
    vLLM 0.32 spoils when it reloads them).
    """

    def __init__(
        self,
        policy: Policy,
        *,
        dtype: str | None = None,
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.3,
        kv_cache_bytes: int | None = None,
        enforce_eager: bool | None = None,
        seed: int = 0,
    ) -> None:
        if Processes().size > 1:
            raise ValueError(
                "VLLMEngine is for a run of one process, this one has "
                f"{Processes().size}. Start a vLLM server and pass its address as the engine."
            )
        super().__init__(policy)
        llm, self._sampling_params = _import_vllm()
        eager = policy.device.type == "cpu" if enforce_eager is None else enforce_eager
        self._lock = threading.Lock()  # vLLM's engine is for one thread at a time
        with TemporaryDirectory(prefix="vpd-vllm-") as folder, _restore_process_state():
            save_config(policy, Path(folder))
            self._llm: Any = llm(
                folder,
                load_format="dummy",  # the weights come by `sync`
                skip_tokenizer_init=True,
                generation_config="vllm",
                logprobs_mode="processed_logprobs",
                dtype=dtype or str(policy.model.dtype).removeprefix("torch."),
                max_model_len=max_model_len,
                gpu_memory_utilization=gpu_memory_utilization,
                kv_cache_memory_bytes=kv_cache_bytes,
                enforce_eager=eager,
                seed=seed,
                disable_log_stats=True,
            )
        self.max_model_len = self._llm.model_config.max_model_len
        try:
            self.sync(policy)
            check_same_model(self, policy)
        except BaseException:
            self.close()
            raise

    def sync(self, policy: Policy) -> None:
        with self._lock:
            llm = self._running()
            llm.collective_rpc(
                "reload_weights", kwargs={"weights_iterator": checkpoint_weights(policy)}
            )
            if not llm.reset_prefix_cache():  # keys and values of the old weights
                raise RuntimeError("vLLM could not drop its prefix cache: requests are running.")

    def _sample(
        self, prompts: Sequence[list[int]], seeds: list[int], settings: dict[str, Any]
    ) -> list[Generation]:
        params = [
            self._sampling_params(**settings, seed=seed, flat_logprobs=True, detokenize=False)
            for seed in seeds
        ]
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        with self._lock:
            llm = self._running()
            ids = llm.enqueue(requests, params, use_tqdm=False)
            try:
                with torch.random.fork_rng([]):  # the CPU build draws noise that it does not use
                    results = llm.wait_for_completion(use_tqdm=False)
            except BaseException:  # an interrupt must not leave requests for the next call
                llm.llm_engine.abort_request(ids, internal=True)
                raise
        return [
            Generation(list(output.token_ids), list(output.logprobs.logprobs), output.finish_reason)
            for result in results
            for output in sorted(result.outputs, key=lambda output: output.index)
        ]

    def close(self) -> None:
        with self._lock:
            if self._llm is None:
                return
            self._llm.llm_engine.engine_core.shutdown()
            self._llm = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _running(self) -> Any:
        if self._llm is None:
            raise ValueError("This engine is closed. Make another.")
        return self._llm


def check_same_model(engine: Engine, policy: Policy) -> None:
    """Raise ValueError if the engine's log-probabilities differ from the policy's by more than
    rounding.

    The limit is a mean difference of one nat per token: far above the rounding of any number type,
    and far below the effect of a missing weight in a trained model.
    """
    prompt_ids = policy.encode([{"role": "user", "content": "Count to ten."}])
    generations = engine.generate(
        [prompt_ids], samples=4, max_tokens=8, generator=torch.Generator().manual_seed(0)
    )
    prompt, prompt_mask = pad_left([prompt_ids] * len(generations), policy.pad_id)
    response, token_mask = pad_right([g.ids for g in generations], policy.pad_id)
    inputs = [t.to(policy.device) for t in (prompt, prompt_mask, response, token_mask)]
    with torch.no_grad():
        logprobs = policy.forward(*inputs).logprobs.cpu()  # [B, T]
    theirs = torch.tensor([logprob for g in generations for logprob in g.logprobs])
    gap = (logprobs[token_mask] - theirs).abs().mean().item()
    if not gap < 1.0:
        raise ValueError(
            f"vLLM's log-probabilities differ from the policy's by {gap:.2g} on average, so it "
            f"computes another model. Is it the one that is trained, and does vLLM reload the "
            f"weights of {policy.model.config.model_type} on this device?"
        )


# --- vLLM's start --------------------------------------------------------------------------------


def _import_vllm() -> tuple[Any, Any]:
    """The classes LLM and SamplingParams, which vllm imports on first use."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # else its lines run through ours
    try:
        vllm = importlib.import_module("vllm")
        return vllm.LLM, vllm.SamplingParams
    except (ImportError, RuntimeError) as error:  # the latter from packages built for another torch
        raise ValueError(
            f"The engine vllm could not be imported: {error}. Install it with "
            f"{install_hint('vllm')}, in an environment of its own if its versions clash with "
            f"yours."
        ) from error


@contextlib.contextmanager
def _restore_process_state() -> Iterator[None]:
    """Start vLLM in this process rather than in a child, and undo what it does to the process: it
    seeds every global generator, chooses the precision of float32 products, and on the CPU puts a
    function in the place of `torch.set_num_threads` that does nothing."""
    mode = "VLLM_ENABLE_V1_MULTIPROCESSING"
    before = os.environ.get(mode)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with contextlib.ExitStack() as undo, torch.random.fork_rng(devices):
        if before is None:
            undo.callback(os.environ.pop, mode)
        else:
            undo.callback(os.environ.__setitem__, mode, before)
        undo.callback(random.setstate, random.getstate())
        undo.callback(np.random.set_state, np.random.get_state())
        undo.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        undo.callback(torch.set_num_threads, torch.get_num_threads())
        undo.callback(setattr, torch, "set_num_threads", torch.set_num_threads)
        os.environ[mode] = "0"
        yield
