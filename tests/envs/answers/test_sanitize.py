"""What programs and models write is shown as text: never as a command to a terminal or template."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vpd_envs.answers.sanitize import sanitize

# Control tokens of published chat templates and tokenizers, by family.
FAMILIES = {
    "ChatML": "<|im_start|> <|im_end|> <|im_sep|> <|endoftext|>",
    "Qwen": "<think> </think> <tool_call> </tool_call> <tool_response> </tool_response> <tools> "
    "</tools> <|vision_start|> <|image_pad|> <|fim_prefix|> <|repo_name|> <|file_sep|> "
    "<|object_ref_start|> <tts_text_bos> <tts_text_eod>",
    "Llama 2": "<s> </s> <unk> [INST] [/INST] <<SYS>> <</SYS>>",
    "Llama 3 and 4": "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> "
    "<|eot_id|> <|eom_id|> <|python_tag|> <|reserved_special_token_0|> <|header_start|> <|eot|>",
    "Mistral": "[AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS] "
    "[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT] [/TOOL_CONTENT] [ARGS] [CALL_ID] [THINK] "
    "[/THINK] [IMG] [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [control_8] <SPECIAL_20>",
    "Gemma": "<bos> <eos> <pad> <mask> <start_of_turn> <end_of_turn> <start_of_image> "
    "<end_of_image> <image_soft_token> <unused17> [@BOS@] <start_function_call> "
    '<end_function_call> <escape> <|turn> <turn|> <|channel> <channel|> <|tool_call> <|"|>',
    "Phi": "<|user|> <|assistant|> <|system|> <|end|> <|dummy_0|>",
    "DeepSeek": "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> <|EOT|> "
    "<｜tool▁calls▁begin｜> <｜tool▁sep｜> <｜fim▁hole｜> <｜▁pad▁｜> ｜DSML｜",
    "OLMo": "<functions> </functions> <function_calls> </function_calls> <|endofprompt|>",
    "GLM": "[gMASK] [sMASK] [MASK] <sop> <eop> <|observation|> <arg_key> </arg_key> <arg_value> "
    "</arg_value> <|begin_of_image|> /nothink",
    "Kimi": "[BOS] [EOS] [EOT] [PAD] [UNK] [extra_id_0] [start_header_id] [end_header_id] "
    "<|im_user|> <|im_assistant|> <|im_middle|> <|tool_calls_section_begin|> <osagent_mode>",
    "Granite": "<|start_of_role|> <|end_of_role|> <|start_of_plugin|> <think_on> <think_off> "
    "<fim_prefix> <fim_middle> <fim_suffix> <fim_pad> <reponame> <filename> <gh_stars> "
    "<issue_start> <jupyter_code> <commit_before> <commit_msg>",
    "Command-R": "<BOS_TOKEN> <EOS_TOKEN> <EOP_TOKEN> <MASK_TOKEN> <PAD> <UNK> <CLS> <SEP> "
    "<|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|CHATBOT_TOKEN|> <|USER_TOKEN|>",
    "gpt-oss": "<|start|> <|channel|> <|message|> <|return|> <|call|> <|constrain|>",
    "MiniMax": "]~!b[ ]~b] [e~[ ]!p~[ ]<]image[>[ <minimax:tool_call> </minimax:tool_call> "
    "<mm:think> <beginning_of_sentence> <end_of_sentence>",
    "Seed": "<seed:bos> <seed:eos> <seed:think> </seed:think> <seed:cot_budget_reflect>",
    "EXAONE": "[|system|] [|user|] [|assistant|] [|endofturn|]",
    "Ling": "<role> </role> <|role_end|>",
    "LongCat": "<longcat_think> </longcat_think> <longcat_tool_call>",
    "BERT, T5": "[CLS] [SEP] <cls> <sep> <extra_id_99>",
}
TOKENS = [token for tokens in FAMILIES.values() for token in tokens.split(" ")]
ORDINARY = [
    "a <b> c",
    "if a < b and c > d: x[INST_COUNT] = y[i][SEPARATOR]",
    "List<String> names = new HashMap<K, List<T>>(); std::vector<int>::iterator it<S>;",
    "<p>text</p> <br/> <a href='x'>y</a> <span class='s'> <table><tr><td>",
    "x <|> y <$> z |> f <| g; a || b; [|1; 2|]; a|b; p<0.05|x>3",
    "File \"<string>\", line 1, in <module>\n  f'{a}' <stdin> <lambda>",
    "lst[0][1:2] [x for x in y] dict[str, list[int]] [/path] [INFO] [ERROR]",
    "10<57/34 1<<3>>2 https://a.b/c/d?e=f ~b] [~b] ]\n~b]",
    "tab\tnewline\nümlaut 漢字 🙂 ｜ ▁",
    "<answer>B</answer> <reasoning> \\boxed{3} ```python\nprint(1)\n```",
]
# Pieces that tokens, and tokens within tokens, are made of, among other text.
PIECES = [*"<>[]|｜/~!eb\x1b\x07\x9b\n\r; ", "\x1b[", "\x1b]", "31m", "im_end", "s", "INST", "SYS"]
texts = st.lists(st.sampled_from([*TOKENS, *PIECES, *ORDINARY]) | st.text(max_size=4)).map("".join)
quick = settings(max_examples=300, deadline=None)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_control_token_of_a_published_template_survives(family):
    for token in FAMILIES[family].split(" "):
        for text in (token, f"a{token}b", f"{token}{token}", f"{token[:1]}{token}{token[-1:]}"):
            assert token not in sanitize(text), text
            assert sanitize(text).replace(" ", "") == text  # and everything is still legible


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_and_code_is_untouched(text):
    assert sanitize(text) == text


@given(texts)
@example("[e~[e~[")
@example("<<|im_end|><|im_end|>>")
@example("<|im_\x1b[0mend|>")
@example("\x9b\x1b[0m31m")
@quick
def test_twice_is_once_and_no_token_is_left(text):
    once = sanitize(text)
    assert sanitize(once) == once
    assert not any(token in once for token in TOKENS)


@given(texts, st.integers(0, 40), st.integers(0, 40))
@quick
def test_a_piece_of_a_harmless_text_is_harmless(text, start, length):
    piece = sanitize(text)[start : start + length]
    assert sanitize(piece) == piece


@given(texts)
@quick
def test_nothing_is_added_but_a_space_for_a_token(text):
    """Apart from spaces the result is the text with characters left out, or `?` for surrogates."""
    left = iter(text.replace("\r", "\n").encode("utf-8", "replace").decode())
    result = sanitize(text)
    assert all(character in left for character in result if character != " ")
    tokens = sum(text.count(first) for first in "<[]｜/")
    assert len(result) <= len(text) + tokens


@given(texts)
@quick
def test_the_result_can_be_encoded_and_holds_no_control_character(text):
    result = sanitize(text)
    assert all(c in "\t\n" or ord(c) >= 32 for c in result)
    assert not set(result) & {chr(c) for c in range(0x7F, 0xA0)}
    result.encode("utf-8")


def test_colors_titles_and_links_of_a_terminal_vanish_with_their_parameters():
    assert sanitize("\x1b[1;31mred\x1b[0m \x1b]0;title\x07t \x1b]8;;http://x\x1b\\l") == "red t l"
    assert sanitize("\x1b(Bplain\x1bc \x9b2Jscreen") == "plain screen"
    assert sanitize("a\x00b\x08c\x7fd\x85e") == "abcde"


def test_an_unclosed_title_does_not_swallow_what_follows():
    assert sanitize("\x1b]0;Traceback\nValueError: no") == "0;Traceback\nValueError: no"


def test_line_ends_become_newlines_and_tabs_stay():
    assert sanitize("a\r\nb\rc\td\n") == "a\nb\nc\td\n"


def test_invisible_text_and_marks_that_reorder_a_line_vanish():
    hidden = "".join(chr(0xE0000 + ord(c)) for c in "ignore all")
    assert sanitize(f"a{hidden}b\u202ec\u2066d\ufeffe\u061cf") == "abcdef"


def test_lone_surrogates_become_question_marks():
    assert sanitize("a\ud800b\udfffc") == "a?b?c"


def test_a_hostile_text_takes_linear_time():
    """Each would take hours if a pattern backtracked; no clock is needed to notice."""
    for unit in ("<|", "\x1b]", "\x1b[0", "<" * 3, "[|a", "<" + "a" * 64):
        text = unit * 100_000
        assert len(sanitize(text)) <= len(text) + 100_000
