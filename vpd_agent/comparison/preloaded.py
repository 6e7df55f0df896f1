"""Imported by the server that a comparison's processes are forked from (child.py), and by nothing
else: it leaves the comparison's process group, and lives until the comparison ends."""

import importlib
import os

os.setsid()  # a signal to the group of the comparison is not for it
for module in ("vpd_agent.train.run", "transformers.models.qwen3.modeling_qwen3", "vpd_agent.tiny"):
    importlib.import_module(module)
