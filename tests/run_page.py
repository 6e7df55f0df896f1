"""Runs the blocks of a page, given as JSON lines of [language, text, where], one after the other in
the current folder: Python blocks share their names, commands of the shell end at the first failure.

    python run_page.py < BLOCKS
"""

import json
import subprocess
import sys

sys.path.insert(0, "")  # as in an interpreter that is started in this folder
names: dict[str, object] = {"__name__": "__main__"}
for language, text, where in map(json.loads, sys.stdin.readlines()):
    print(f"--- {where}", flush=True)
    if language == "python":
        exec(compile(text, where, "exec"), names)
    else:
        command = ["bash", "-euo", "pipefail", "-c", text]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
