"""A client of `vpd serve`: it reads problems over HTTP and has answers to them judged.

    vpd serve --env vpd/MiniArithmetic-v0              # in one terminal
    python examples/serve_client.py                    # in another, or on another machine
    python examples/serve_client.py --openenv          # with OpenEnv's client (openenv-core)

It needs Python's standard library and nothing of this project; any language does as well.
"""

import argparse
import json
from urllib.parse import quote
from urllib.request import Request, urlopen


def ask(url, body=None):
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(url, json.dumps(body).encode() if body else None, headers)) as reply:
        return json.load(reply)


def over_http(url, answer):
    print("health:", ask(f"{url}/health")["status"])
    ids = ask(f"{url}/problems?limit=3")["problem_ids"]
    print("prompt:", ask(f"{url}/problems/{quote(ids[0])}")["prompt"])
    answers = [{"problem_id": id_, "answer": answer} for id_ in ids]
    for verdict in ask(f"{url}/judge", answers):  # the reward is null where judging failed
        print(verdict["problem_id"], verdict["reward"], verdict["status"], verdict["feedback"])


def with_openenv(url, answer):
    from openenv.core import GenericEnvClient

    with GenericEnvClient(base_url=url).sync() as env:
        seen = env.reset(seed=0)
        while not seen.done:  # with --set max_turns=3 the feedback is the next message
            print("messages:", seen.observation["messages"])
            seen = env.step({"answer": answer})
        print(seen.reward, seen.observation["status"], seen.observation["feedback"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--answer", default="42")
    parser.add_argument("--openenv", action="store_true")
    options = parser.parse_args()
    (with_openenv if options.openenv else over_http)(options.url, options.answer)
