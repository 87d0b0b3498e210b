"""Markdown that shows texts as they are."""

from surgeon.markdown import fence, pipe_table, plain


def test_nothing_of_a_plain_text_is_marked_up() -> None:
    assert plain("a|b *c*\n`d` <e> [f](g)") == "a\\|b \\*c\\* \\`d\\` \\<e> \\[f\\](g)"
    assert plain("tiny_llama-2") == "tiny_llama-2"


def test_tables() -> None:
    assert pipe_table(("a", "b"), [("1", "2\n3")], left=1) == "| a | b |\n|---|---:|\n| 1 | 2 3 |"
    assert pipe_table(("a",), []) == "| a |\n|---|"


def test_a_fence_is_longer_than_what_it_holds() -> None:
    assert fence("a", "sh") == "```sh\na\n```"
    assert fence("````") == "`````\n````\n`````"
