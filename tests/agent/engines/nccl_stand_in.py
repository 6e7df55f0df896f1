"""A stand-in for NCCL's communicator, so that vLLM's weight transfer by NCCL runs on a CPU: tensors
go through the store by which the group is formed. All else is vLLM's own.

A server gets it as a plugin (`plugin_environment`), the trainer by `install`.
"""

from __future__ import annotations

import os
from pathlib import Path

PLUGIN = """[vllm.general_plugins]
nccl_stand_in = nccl_stand_in:install
"""


def install() -> None:
    import torch
    from vllm.distributed.utils import StatelessProcessGroup
    from vllm.distributed.weight_transfer import nccl_engine

    def trainer(init_info, rank: int = 0):
        return StatelessProcessGroup.create(
            init_info.master_address, init_info.master_port, rank, init_info.world_size
        )

    def worker(init_info, parallel_config):
        rank = init_info.rank_offset + parallel_config.data_parallel_index
        return trainer(init_info, rank)

    def send(iterator, group, src, post_iter_func, **buffers):
        for pair in iterator:
            group.broadcast(post_iter_func(pair), src)

    def receive(iterator, group, src, post_unpack_func, **buffers):
        post_unpack_func((name, group.broadcast(None, src)) for name, _ in iterator)

    StatelessProcessGroup.destroy = lambda group: None
    torch.accelerator.synchronize = lambda *device: None
    nccl_engine.open_trainer_endpoint = trainer
    nccl_engine.worker_init_process_group = worker
    nccl_engine.packed_nccl_broadcast_producer = send
    nccl_engine.packed_nccl_broadcast_consumer = receive


def plugin_environment(folder: Path) -> dict[str, str]:
    """Environment variables with which a vLLM server finds the stand-in among its plugins."""
    package = folder / "nccl_stand_in-0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: nccl-stand-in\nVersion: 0\n")
    (package / "entry_points.txt").write_text(PLUGIN)
    paths = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
