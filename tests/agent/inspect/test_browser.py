"""The page in a real browser: headless Chromium, driven by Selenium.

Where one of both is missing the tests are skipped; if VPD_REQUIRE_BROWSER is set they fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from agent.inspect.made_up import ANSWER, ATTACK, change, make_run
from vpd_agent.cli.main import main

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = [
    name
    for name, there in (
        ("chromium", BROWSER),
        ("chromedriver", DRIVER),
        ("selenium", find_spec("selenium")),
    )
    if not there
]
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--window-size=1300,900",
)
SECONDS = 20  # until a page must have done what it was told


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if MISSING:
        text = f"the browser tests need {', '.join(MISSING)}"
        if "VPD_REQUIRE_BROWSER" in os.environ:
            pytest.fail(text)
        pytest.skip(text)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def large_page(tmp_path_factory) -> Path:
    """A thousand rollouts."""
    run = make_run(tmp_path_factory.mktemp("large") / "run", steps=125, group_size=8)
    assert main(["inspect", str(run)]) == 0
    return run / "inspect.html"


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page, and checks at the end that it asked the network for nothing and logged no
    error."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)  # what came before

    def show(page: Path, state: str = ""):
        browser.get("about:blank")  # a page with another #… alone would not be loaded again
        browser.get(f"{page.as_uri()}#{state}")
        return Page(browser, WebDriverWait(browser, SECONDS))

    yield show
    asked = [
        message["params"]["request"]["url"]
        for entry in browser.get_log("performance")
        if (message := json.loads(entry["message"])["message"])["method"]
        == "Network.requestWillBeSent"
    ]
    assert asked
    assert all(url.startswith(("file:///", "about:blank")) for url in asked), asked
    assert browser.get_log("browser") == []


@pytest.fixture
def page(show, tmp_path):
    run = make_run(tmp_path / "run")
    assert main(["inspect", str(run)]) == 0
    return show(run / "inspect.html")


class Page:
    """What a person sees and does."""

    def __init__(self, browser, wait) -> None:
        self.browser, self.wait = browser, wait

    def all(self, selector: str):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def do(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def hover(self, selector: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).move_to_element(self.one(selector)).perform()

    @property
    def rows(self) -> list[str]:
        """Their texts, read at once: scrolling replaces rows."""
        return self.do("return [...document.querySelectorAll('.row')].map(row => row.innerText)")

    @property
    def numbers(self) -> dict[str, str]:
        """Of the token that is read."""
        names, values = self.all("#readout dt"), self.all("#readout dd")
        return {n.text: v.text for n, v in zip(names, values, strict=True)}

    def token_classes(self) -> list[set[str]]:
        return [set(token.get_attribute("class").split()) for token in self.all("#answer .t")]

    def backgrounds(self) -> list[str]:
        return [t.value_of_css_property("background-color") for t in self.all("#answer .t")]


def channels(color: str) -> list[float]:
    """Red, green and blue of a computed color, between 0 and 1: "color(srgb r g b / a)" or
    "rgba(r, g, b, a)"."""
    numbers = [float(x) for x in re.findall(r"[\d.]+", color.removeprefix("color(srgb"))]
    scale = 1 if color.startswith("color(") else 255
    return [x / scale for x in numbers[:3]]


def test_the_slider_moves_through_the_steps_that_were_kept(page):
    from selenium.webdriver.common.keys import Keys

    assert page.text("#step-name") == "step 1"
    slider = page.one("#step")
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.text("#step-name") == "step 21"
    assert "problem-21" in page.text("#title")
    assert page.text("#count") == "4 rollouts in step 21"
    # The first curve's number is the reward of that step, step / 100.
    assert page.text("#curves .curve:first-child .number") == "0.21"
    slider.send_keys(Keys.END)
    assert page.text("#step-name") == "step 91"
    page.one("#before").click()
    assert page.text("#step-name") == "step 81"
    page.press("[")
    assert page.text("#step-name") == "step 71"


def test_search_finds_problem_answer_and_feedback(page):
    from selenium.webdriver.common.keys import Keys

    page.one("#all").click()
    assert page.text("#count") == "40 rollouts of 40"
    search = page.one("#search")
    search.send_keys("Feedback of STEP 31, rollout 2")
    assert page.text("#count") == "1 rollout of 40"
    assert "problem-31" in page.rows[0]
    assert "problem-31" in page.text("#title")  # what is shown is one of those found
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys("no such words")
    assert page.text("#count") == "0 rollouts of 40"
    assert page.rows == []
    search.send_keys(Keys.CONTROL, "a")
    search.send_keys("return 1")
    assert page.text("#count") == "40 rollouts of 40"


def test_sorting_by_gap_and_by_reward(page):
    from selenium.webdriver.support.ui import Select

    # The mean of |i − 3|·(k + 1)/10 over the seven tokens i is (k + 1)·12/70.
    Select(page.one("#sort")).select_by_value("gap")
    expected = [f"{(k + 1) * 12 / 70:.3f}" for k in (3, 2, 1, 0)]
    assert [row.split("\n")[1] for row in page.rows] == expected
    page.one("#direction").click()
    assert [row.split("\n")[1] for row in page.rows] == expected[::-1]
    page.one("#direction").click()
    Select(page.one("#sort")).select_by_value("reward")
    assert [row.split("\n")[1] for row in page.rows] == ["1.00", "0.00", "0.00", "0.00"]


def test_a_rollout_that_is_picked_shows_its_texts_and_its_siblings(page):
    page.all(".row")[2].click()
    assert page.one('.row[aria-selected="true"]').get_attribute("aria-posinset") == "3"
    assert "reward 0.00" in page.text("#title")
    texts = page.text("#texts")
    for expected in ("problem 1", "feedback of step 1, rollout 2", "problem 1, and feedback"):
        assert expected in texts
    assert "Demonstration" not in texts  # it has none
    assert len(page.all("#siblings button")) == 4
    page.all("#siblings button")[0].click()
    assert "reward 1.00" in page.text("#title")


def test_tokens_have_the_color_and_the_numbers_of_what_was_kept(page):
    page.all(".row")[3].click()  # gaps of 0.4·(i − 3)
    assert page.text("#answer .t") == ANSWER[0]
    classes = page.token_classes()
    assert all("n" in c for c in classes[:3])
    assert not {"p", "n"} & classes[3]
    assert all("p" in c for c in classes[4:])
    colors = [channels(color) for color in page.backgrounds()]
    red, _, blue = colors[0]
    assert red > blue  # orange: the teacher finds it less likely
    red, _, blue = colors[6]
    assert blue > red
    page.hover("#answer .t:nth-child(6)")
    shown = page.numbers
    assert shown["token 6 of 7"] == '" 1"'
    assert shown["log q − log π"] == "+0.800"
    assert shown["student log π"] == "−1.000 (36.8 %)"
    assert shown["teacher log q"] == "−0.200 (81.9 %)"
    assert shown["divergence"] == "0.800"
    assert shown["implicit reward"] == "+0.400"
    assert shown["entropy of π"] == "0.500"
    assert shown["entropy of q"] == "0.250"
    assert shown["GRPO's advantage"] == "−0.500"


def test_views_change_the_colors_and_name_what_they_show(page):
    page.all(".row")[3].click()
    page.one('#views [value="divergence"]').click()
    assert all("s" in c for i, c in enumerate(page.token_classes()) if i != 3)
    assert page.text("#meaning").startswith("KL(student ‖ teacher)")
    page.one('#views [value="implicit"]').click()
    assert "β = 0.5" in page.text("#meaning")
    page.one('#views [value="advantage"]').click()
    assert all("n" in c for c in page.token_classes())  # a failure among solved ones: below 0


def test_the_underline_is_grpos_advantage_alike_under_all_tokens(page):
    shadows = [t.value_of_css_property("box-shadow") for t in page.all("#answer .t")]
    assert len(set(shadows)) == 1
    assert shadows[0] != "none"
    page.one("#strip").click()
    assert {t.value_of_css_property("box-shadow") for t in page.all("#answer .t")} == {"none"}


def test_everything_can_be_done_with_the_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    page.do("document.getElementById('list').focus()")
    page.press(Keys.ARROW_DOWN)
    assert page.one('.row[aria-selected="true"]').get_attribute("aria-posinset") == "2"
    page.do("document.getElementById('answer').focus()")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert "token 2 of 7" in page.numbers
    page.press(Keys.END)
    assert "token 7 of 7" in page.numbers
    page.do("document.querySelector('#views [aria-checked=true]').focus()")
    page.press(Keys.ARROW_RIGHT)
    assert page.one("#views [aria-checked=true]").text == "Divergence"
    page.press("/", "31")
    assert page.one("#search").get_attribute("value") == "31"


def test_the_address_keeps_what_is_shown(page, show):
    page.one("#all").click()
    page.all(".row")[5].click()
    page.one('#views [value="implicit"]').click()
    page.one("#answer .t:nth-child(2)").click()
    expected = "r=11.0.1&view=implicit&all=1&t=1"
    page.wait.until(lambda browser: browser.current_url.endswith(f"#{expected}"))
    path = Path(page.browser.current_url.removeprefix("file://").partition("#")[0])
    again = show(path, expected)
    assert "problem-11" in again.text("#title")
    assert "token 2 of 7" in again.numbers
    assert again.one("#views [aria-checked=true]").text == "Implicit reward"
    nonsense = show(path, "r=999.9.9&view=%3Cb%3E&sort=toString&t=x")
    assert "problem-1" in nonsense.text("#title")


def test_what_a_model_wrote_never_runs(show, tmp_path):
    run = make_run(tmp_path / "run")
    texts = [ATTACK, *ANSWER[1:]]
    change(run, feedback=ATTACK, demonstration=ATTACK, teacher_prompt=ATTACK, tokens=texts,
           answer=ATTACK, status=ATTACK)  # fmt: skip
    assert main(["inspect", str(run)]) == 0
    page = show(run / "inspect.html", "t=0")
    assert page.do("return window.hacked") is None
    assert page.all("img") == []
    feedback = page.do("return JSON.stringify(DATA.steps[0].groups[0].rollouts[0].feedback)")
    assert json.loads(feedback) == ATTACK
    shown = page.do("return JSON.stringify(document.querySelector('#texts').textContent)")
    assert json.loads(shown).count(ATTACK) == 3  # feedback, demonstration, teacher's prompt


def test_a_run_without_a_teacher_shows_the_advantage(show, tmp_path):
    run = make_run(tmp_path / "run", alpha=None)
    lines = [json.loads(line) for line in (run / "inspect.jsonl").read_text().splitlines()]
    for line in lines:
        for one in line["groups"][0]["rollouts"]:
            for name in ("teacher_logprob", "teacher_entropy", "divergence", "implicit_reward"):
                del one[name]
            one |= {"teacher_prompt": None, "taught": False}
    (run / "inspect.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["inspect", str(run)]) == 0
    page = show(run / "inspect.html", "t=0")
    views = [button.text for button in page.all("#views button")]
    assert views == ["Student's entropy", "GRPO's advantage"]
    assert page.one("#views [aria-checked=true]").text == "GRPO's advantage"
    assert "no teacher" in page.text("#title")
    assert "teacher log q" not in page.numbers
    assert [o.text for o in page.all("#sort option")] == [
        "sort: in order", "sort: reward", "sort: length"
    ]  # fmt: skip


def test_tokens_of_the_environment_have_no_color(show, tmp_path):
    run = make_run(tmp_path / "run")
    numbers = [None, -1.0, -1.0, None, -1.0, -1.0, -1.0]
    gap = [None, 1.0, 1.0, None, 1.0, 1.0, 1.0]
    change(run, student_logprob=numbers, teacher_logprob=[g and g - 1 for g in gap])
    assert main(["inspect", str(run)]) == 0
    page = show(run / "inspect.html", "t=3")
    theirs = ["environment" in c for c in page.token_classes()]
    assert theirs == [True, False, False, True, False, False, False]
    assert "6 tokens" not in page.text("#title")
    assert "5 tokens" in page.text("#title")
    assert "the environment's, not the policy's" in page.text("#readout")


def test_a_thousand_rollouts_are_listed_but_only_those_seen_are_drawn(show, large_page):
    page = show(large_page, "all=1")
    assert page.text("#count") == "1000 rollouts of 1000"
    assert 5 < len(page.rows) < 40
    page.do("document.getElementById('list').scrollTop = 1e9")
    page.wait.until(lambda _: any("problem-1241" in row for row in page.rows))
    assert 5 < len(page.rows) < 40
    page.all(".row")[-1].click()
    assert page.text("#step-name") == "step 1241"


def test_an_answer_of_8000_tokens_can_be_read(show, tmp_path):
    run = make_run(tmp_path / "run", steps=1)
    n = 8000
    gap = [0.0] * n
    gap[7000] = 3.0
    change(
        run,
        tokens=[f" word{i}" for i in range(n)],
        student_logprob=[-1.0] * n,
        student_entropy=[0.5] * n,
        teacher_logprob=[-1 + g for g in gap],
        teacher_entropy=[0.5] * n,
        divergence=gap,
        implicit_reward=gap,
    )
    assert main(["inspect", str(run)]) == 0
    page = show(run / "inspect.html", "t=7000")
    assert len(page.all("#answer .t")) == n
    assert "token 7001 of 8000" in page.numbers
    assert page.one("#answer .here").is_displayed()
    bars = page.all("#signal rect.p")
    assert len(bars) == 1  # the place of the one token that the teacher likes
    assert len(page.all("#signal rect")) <= 401


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_with_the_strongest_colors(page, scheme):
    """At least 4.5 : 1, as WCAG asks of text (level AA)."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    ratios = page.do(CONTRAST)
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(ratios) == 3
    assert min(ratios) >= 4.5


CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const luminance = (...colors) => {
  for (const color of colors) { canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1); }
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((x) => {
    x /= 255;
    return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const style = getComputedStyle(document.body);
return ["p", "n", "s"].map((kind) => {
  const token = document.querySelector("#answer .t");
  token.className = `t ${kind} l9`;
  const back = luminance(style.backgroundColor, getComputedStyle(token).backgroundColor);
  const [dark, light] = [back, luminance(style.color)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
});
"""
