"""Values for the arguments of a chat template: part of the template wherever it is rendered."""

from pathlib import Path

import pytest
from tokenizers import AddedToken

from tests.agent.helpers import small_policy
from vpd_agent import Policy
from vpd_agent.cli.main import main
from vpd_agent.model.chat_template import PLAIN, set_arguments
from vpd_agent.runs.identity import tokenizer_hash
from vpd_agent.tiny.model import byte_tokenizer
from vpd_agent.train.options import ModelOptions

TEMPLATE = Path(__file__).parents[2] / "fixtures" / "qwen3_form.jinja"
QUESTION = [{"role": "user", "content": "What is 2+2?"}]
HEADER = "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
NO_THOUGHT = "<think>\n\n</think>\n\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A saved model whose template is of Qwen3's form."""
    policy = small_policy()
    for token in ("<|im_start|>", "<|im_end|>"):
        policy.tokenizer.add_tokens([AddedToken(token, special=True)])
    policy.tokenizer.eos_token = "<|im_end|>"
    policy.tokenizer.chat_template = TEMPLATE.read_text()
    policy.model.resize_token_embeddings(len(policy.tokenizer))
    folder = tmp_path_factory.mktemp("model")
    policy.save(folder)
    return str(folder)


def prompt(policy: Policy) -> str:
    return policy.chat.text(policy.encode(QUESTION))


def test_a_model_thinks_unless_its_template_is_told_otherwise(model):
    assert prompt(Policy.load(model)) == HEADER
    silent = Policy.load(model, template_arguments={"enable_thinking": False})
    assert prompt(silent) == HEADER + NO_THOUGHT
    assert prompt(Policy.load(model, template_arguments={"enable_thinking": True})) == HEADER


def test_the_next_turn_and_the_end_of_an_answer_know_of_it(model):
    plain = Policy.load(model)
    silent = Policy.load(model, template_arguments={"enable_thinking": False})
    reply = {"role": "user", "content": "Why?"}
    after = "<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert plain.chat.text(plain.continuation(reply)) == after
    assert silent.chat.text(silent.continuation(reply)) == after + NO_THOUGHT
    assert silent.eos_ids == plain.eos_ids


def test_copies_and_saved_models_keep_it_and_are_told_apart(model, tmp_path):
    silent = Policy.load(model, template_arguments={"enable_thinking": False})
    assert prompt(silent.frozen_copy()) == HEADER + NO_THOUGHT
    silent.save(tmp_path)
    assert prompt(Policy.load(str(tmp_path))) == HEADER + NO_THOUGHT
    again = Policy.load(str(tmp_path), template_arguments={"enable_thinking": True})
    assert prompt(again) == HEADER  # the last word counts
    hashes = {tokenizer_hash(p.tokenizer) for p in (Policy.load(model), silent, again)}
    assert len(hashes) == 3


def test_a_caller_of_the_template_has_the_last_word(model):
    silent = Policy.load(model, template_arguments={"enable_thinking": False})
    text = silent.tokenizer.apply_chat_template(
        QUESTION, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    assert text == HEADER


def test_every_value_of_json_reaches_the_template():
    tokenizer = byte_tokenizer()
    values = {
        "text": 'a "b" \\ \n %} }} {# é 😀',
        "nothing": None,
        "numbers": [1, -2.5, 1e-06],
        "nested": {"a": {"b": [True, False]}},
    }
    tokenizer.chat_template = "{{ [text, nothing, numbers, nested] | tojson }}"
    set_arguments(tokenizer, values)
    shown = (
        '["a \\"b\\" \\\\ \\n %} }} {# é 😀", null, [1, -2.5, 1e-06], {"a": {"b": [true, false]}}]'
    )
    assert tokenizer.apply_chat_template(QUESTION, tokenize=False) == shown


def test_tags_of_transformers_own_are_read():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{%- generation -%}{{ m.content }}{{ style }}{% endgeneration %}"
        "{% break %}{% endfor %}"
    )
    set_arguments(tokenizer, {"style": "!"})
    assert tokenizer.apply_chat_template(QUESTION, tokenize=False) == "What is 2+2?!"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"enable_thinkin": False},
            r"Unknown argument of the model's chat template 'enable_thinkin'\. "
            r"Did you mean 'enable_thinking'",
        ),
        ({"messages": []}, "Unknown argument .*'messages'"),
        ({"add_generation_prompt": False}, "Unknown argument .*'add_generation_prompt'"),
        ({"enable_thinking": float("nan")}, "enable_thinking: expected a value of JSON, got nan"),
        ({"enable_thinking": object()}, "enable_thinking: expected a value of JSON, got <object"),
    ],
)
def test_what_no_template_would_read_is_refused(model, arguments, said):
    with pytest.raises(ValueError, match=said):
        Policy.load(model, template_arguments=arguments)


def test_templates_that_read_nothing_say_so(model):
    for chosen in (
        ModelOptions(model="tiny-warm", template_arguments=("enable_thinking=false",)),
        ModelOptions(
            model=model, chat_template="plain", template_arguments=("enable_thinking=false",)
        ),
    ):
        for work in (chosen.check, lambda chosen=chosen: chosen.load(quiet=True)):
            with pytest.raises(ValueError, match=r"'enable_thinking'\. There are none"):
                work()
    assert "enable_thinking" not in PLAIN


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("enable_thinking", r"KEY=VALUE, such as enable_thinking=false; got 'enable_thinking'"),
        ("enable_thinking=False", r"values are JSON, write enable_thinking=false\."),
        ("enable_thinking=None", r"values are JSON, write enable_thinking=null\."),
        ("enable_thinking=NaN", r"expected a value of JSON, got nan"),
    ],
)
def test_a_bad_flag_is_told_before_any_work(model, given, said):
    with pytest.raises(ValueError, match=said):
        ModelOptions(model=model, template_arguments=(given,)).check()


def test_another_model_as_teacher_reads_what_the_student_template_made(model):
    student = ModelOptions(model=model, template_arguments=("enable_thinking=false",))
    assert student.for_teacher("tiny").template_arguments == ()


def train(model: str, out: Path, *more: str) -> int:

    given = f"train grpo --env vpd/MiniCode-v0 --model {model} --out {out} --preset laptop --quiet"
    lengths = "--prompts-per-step 1 --group-size 2 --max-response-tokens 4 --eval-every 0"
    return main([*given.split(), *lengths.split(), *more])


def test_a_run_saves_it_and_does_not_go_on_with_another(model, tmp_path, capsys):
    out = tmp_path / "run"
    silent = ("--template-arguments", "enable_thinking=false")
    assert train(model, out, "--steps", "1", "--save-every", "1", *silent) == 0
    assert '"enable_thinking=false"' in (out / "config.json").read_text()
    assert prompt(Policy.load(str(out))) == HEADER + NO_THOUGHT
    capsys.readouterr()
    other = ("--template-arguments", "enable_thinking=true")
    assert train(model, out, "--steps", "2", "--resume", *other) == 2
    said = capsys.readouterr().err
    assert "Warning: resuming with template_arguments = ['enable_thinking=true']" in said
    assert "another tokenizer or chat template" in said
    assert train(model, out, "--steps", "2", "--resume") == 0  # the flag is that of the run


def test_an_evaluation_with_another_value_is_another_one(model, tmp_path, capsys):
    def evaluate(*more: str) -> int:
        given = f"eval --env vpd/MiniCode-v0 --model {model} --out {tmp_path / 'answers.jsonl'}"
        lengths = "--problems 1 --max-response-tokens 2"
        return main([*given.split(), *lengths.split(), *more])

    assert evaluate() == 0
    assert evaluate("--template-arguments", "enable_thinking=false") == 2
    assert "template_arguments is [] there, ['enable_thinking=false']" in capsys.readouterr().err
