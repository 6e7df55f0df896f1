"""Unicode's signs as LaTeX: `½`, `≤`, `√2` and `x²` in the ASCII notation of `notation`."""

from __future__ import annotations

import re
import unicodedata

CHARACTERS = {
    "−": "-", "–": "-", "—": "-", "‒": "-", "‐": "-", "‑": "-",
    "×": r"\times ", "✕": r"\times ", "÷": "/", "∕": "/", "⁄": "/",
    "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "∗": r"\cdot ",
    "±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "∘": r"^\circ ", "°": r"^\circ ", "º": r"^\circ ",
    "℃": r"^\circ C", "℉": r"^\circ F",
    "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ",
    "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ", "∈": r"\in ", "∉": r"\notin ",
    "∅": r"\emptyset ", "⌀": r"\emptyset ", "Ø": r"\emptyset ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}", "ℕ": r"\mathbb{N}",
    "ℂ": r"\mathbb{C}", "∨": r"\text{ or }", "∧": r"\text{ and }",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": "(", "⟩": ")",
    "→": r"\to ", "⇒": r"\to ", "∠": r"\angle ", "△": r"\triangle ", "∣": "|", "…": r"\ldots ",
    "π": r"\pi ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ",
    "ε": r"\epsilon ", "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "ρ": r"\rho ",
    "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\varphi ", "ϕ": r"\phi ", "ψ": r"\psi ",
    "ω": r"\omega ", "Δ": r"\Delta ", "Ω": r"\Omega ",
    "€": r"\text{ euros}", "£": r"\text{ pounds sterling}", "¥": r"\text{ yen}",
    "“": "", "”": "", "‘": "'", "’": "'", "′": "'", "″": "''",
    "\u200b": "", "\u2060": "", "\ufeff": "", "，": ",", "。": ".", "、": ",",
    "【": "[", "】": "]", "％": "%",
}  # fmt: skip
ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
ROOT = re.compile(r"([√∛∜])\s*(\d+(?:\.\d+)?|[^\W\d_](?![^\W\d_]))?")
RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ]+")
LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₐₑₓ]+")
CURRENCY_BEFORE = re.compile(
    r"([€£¥])\s*([-+]?[\d.,]*\d(?:\s*(?:thousand|million|billion|trillion)(?![a-z]))*)"
)
ABOVE_ASCII = re.compile(r"[^\x00-\x7f]")


def ascii_form(text: str) -> str:
    """Unicode's signs as LaTeX; a letter that has no such form stays as it is."""
    text = ROOT.sub(lambda match: ROOTS[match[1]] + (f"{{{match[2]}}}" if match[2] else ""), text)
    text = RAISED.sub(lambda match: f"^{{{_compatible(match[0])}}}", text)
    text = LOWERED.sub(lambda match: f"_{{{_compatible(match[0])}}}", text)
    text = CURRENCY_BEFORE.sub(r"\2\1", text)
    return ABOVE_ASCII.sub(_ascii_character, text)


def _ascii_character(match: re.Match[str]) -> str:
    character = match[0]
    if character in CHARACTERS:
        return CHARACTERS[character]
    plain = _compatible(character)
    over, slash, under = plain.partition("/")
    if slash:  # ½ and its like
        return rf"\frac{{{over}}}{{{under}}}"
    return plain if plain.isascii() else CHARACTERS.get(plain, character)


def _compatible(text: str) -> str:
    """The plain characters of which these are variants: full width, superscript, bold ..."""
    plain = unicodedata.normalize("NFKC", text)
    return plain.replace("\u2044", "/").replace("−", "-")


def single_backslashes(text: str) -> str:
    r"""`\frac` for the `\\frac` of a model that escapes its own text."""
    if not DOUBLED.search(text) or re.search(r"(?<!\\)\\[A-Za-z]", text):
        return text
    return text.replace("\\\\", "\\")


DOUBLED = re.compile(r"\\\\[A-Za-z{}$%]")
