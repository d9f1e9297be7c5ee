"""Answers stated in words: the final answer of a sentence, the letter of a multiple choice."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import Plugin
from voting.extract import extract_choice, extract_final_answer, make_extractor
from voting.extractors.choice import ChoiceOptions
from voting.extractors.search import last_match


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The final answer is $X$. I hope it is correct.", "X"),
        ("Final Answer: The final answer is $\\frac{3}{4}$. I hope it is correct.", "\\frac{3}{4}"),
        ("She sold 48 / 2 = 24 clips in May. The answer is 72.", "72"),
        ("The answer is 3.5.", "3.5"),
        ("The answer is 1,234 dollars. She is rich.", "1,234 dollars"),
        ("The answer is $12.50.", "$12.50"),
        ("The answer is $12 and $15.", "$12 and $15"),
        ("Answer: $12,000", "$12,000"),
        ("So the answer is **42**.", "42"),
        ("So the answer is **42** apples. Done.", "42 apples"),
        ("**Answer:** 2*3", "2*3"),
        ("**Final Answer**: 42", "42"),
        ("__Answer__: 42", "42"),
        ("**The answer is 42**", "42"),
        ("\\textbf{Answer: 42}", "42"),
        ("\\textbf{Answer:} 42", "42"),
        ("**Final Answer**\n\n\\[\n\\boxed{42}\n\\]\n", "42"),
        ("### Final Answer\r\n\r\n42\r\nDone.", "42"),
        ("Hence the answer is\n\n$$\nx = 7\n$$\nas claimed.", "x = 7"),
        ("The answer is $x=1$ and $y=2$.", "$x=1$ and $y=2$"),
        ("the ANSWER IS: \\(\\sqrt{2}\\).", "\\sqrt{2}"),
        ("The answer is therefore $\\boxed{7}$ units.", "7"),
        ("The answer is $5.$ And so on.", "5"),
        ("The answer is $10!$.", "10!"),
        ("It comes to 18, so the answer is 18!", "18"),
        ("(the answer is 5.)", "5"),
        ("The answer is [0, 1).", "[0, 1)"),
        ("The answer is -5", "-5"),
        ("Answer: New York\nQuestion: where?", "New York"),
        ("Answer\uff1a42\u3002", "42"),
        ("Answer: 42</answer>", "42"),
        ("The answer is 3. Wait. The answer is 4.", "4"),
        ("The answer is 3.\n\nAnswer:", None),
        ("The answer is **", None),
        ("The final answer is $\\boxed{}$.", None),
        ("nonanswer: 5, answers: 6, the answer's 7", None),
        ("It is 42.", None),
        ("", None),
    ],
)
def test_final_answer_reads_to_the_end_of_the_last_statement(text: str, answer: str | None) -> None:
    assert extract_final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        (r"So $\boxed{C}$.", "C"),
        (r"So \boxed{\text{(C)}}.", "C"),
        (r"So \boxed{\textbf{(C)}\ 42}.", "C"),
        (r"So \boxed{c. Paris}.", "C"),
        (r"\boxed{A} it is. The answer is B.", "A"),
        (r"The length is \boxed{42}, so the answer is B.", "B"),
        ("A is too small. The answer is (C).", "C"),
        ("The correct answer is **D**, because it is heavier.", "D"),
        ("The answer is C because it is heavier.", "C"),
        ("Answer: C", "C"),
        ("**Answer: C**", "C"),
        ("**Answer:** (C) - a long chain", "C"),
        ("Answer: C, a polar molecule", "C"),
        ("The answer is C, B is wrong.", "C"),
        ("Therefore the correct option is (D), as shown.", "D"),
        ("The answer is option B.", "B"),
        ("\\textbf{Answer:} C", "C"),
        ("The answer is $\\mathbf{B}$.", "B"),
        ("The answer is: \n\n**B) 42**", "B"),
        ("the answer is d", "D"),
        ("the answer is D</answer>", "D"),
        ("The answer is A.", "A"),
        ("The answer is A because of the sign.", "A"),
        ("The answer isn't C. The answer is D", "D"),
        ("The answer is C. Let me see whether the answer is a good one.", "C"),
        ("I compare them.\nI choose **C**.", "C"),
        ("I compare them.\n**(C) Paris**", "C"),
        ("I compare them.\nC", "C"),
        ("I compare them.\n\n (C).  \n", "C"),
        ("A", "A"),
    ],
)
def test_choice_reads_the_letter_that_is_chosen(text: str, letter: str) -> None:
    assert extract_choice(text) == letter


@pytest.mark.parametrize(
    "text",
    [
        "The answer is A good question.",
        "The answer is a matter of taste.",
        "A large value is needed.",
        "Answer:\n\nA simple computation shows that 5 holds.",
        "Answer: **A good question**",
        r"\boxed{\text{A good one}}",
        r"\boxed{AB}",
        r"\boxed{A + B}",
        r"\boxed{D_2}",
        "The answer is B and D.",
        "The answer is (B) or (D).",
        "The answer is **B** and **D**",
        "The answer is B, C and D.",
        "The answer is (A, B).",
        "The answer is C = 5.",
        "The answer is f(C).",
        "The answer is D-glucose.",
        "The answer is not C.",
        "Answer: Cats",
        "Answer: B's value",
        "The answer is E.",
        "**A** is wrong.\n**B** is right, I think.",
        "C is one option.\nSo is D, of course.",
        "",
    ],
)
def test_choice_abstains_where_no_letter_is_chosen(text: str) -> None:
    assert extract_choice(text) is None


def test_the_letters_can_be_others_and_an_english_i_is_none_of_them() -> None:
    ten = ChoiceOptions(letters="ABCDEFGHIJ")
    assert extract_choice("The answer is (J).", ten) == "J"
    assert extract_choice("The answer is I.", ten) == "I"
    assert extract_choice("The answer is I think unclear.", ten) is None
    assert extract_choice("The answer is (D).", ChoiceOptions(letters="ABC")) is None


@pytest.mark.parametrize("letters", ["", "A", "abcd", "A,B", "ABA", "A\u00c4"])
def test_letters_are_capitals_and_each_stands_once(letters: str) -> None:
    with pytest.raises(ValueError, match="letters"):
        ChoiceOptions(letters=letters)


_WORDS = st.sampled_from(["step", "the answer is", "Answer:", "7.", "**B**", "option", "C", "1,234", "\n", "so", "$x$"])


@given(words=st.lists(_WORDS, min_size=1, max_size=12), filler=st.integers(min_value=0, max_value=120))
def test_a_statement_is_found_however_far_before_the_end_it_stands(words: list[str], filler: int) -> None:
    text = " ".join(words) + " then" + " word" * filler
    pattern = re.compile(r"answer(?: is|:)|[0-9]+(?:,[0-9]{3})*", re.IGNORECASE)
    found, all_matches = last_match(pattern, text), list(pattern.finditer(text))
    assert (found and found.span()) == (all_matches[-1].span() if all_matches else None)
    for name in ("final_answer", "choice", "last_number"):
        extract = make_extractor(Plugin(name=name))
        assert extract(text) == extract("word " * 100 + text)
