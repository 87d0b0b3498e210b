"""Token ids to text while they come, without the losses of decoding them one by one."""

from collections.abc import Callable, Sequence


class Detokenizer:
    """Turns a growing list of ids into pieces of text that add up to the text of all.

    A tokenizer strips the space before the first token it sees, and a character may need several
    tokens; so each step decodes a short window twice, with and without the new ids, and hands out
    the difference once it ends in a whole character.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int]) -> None:
        self._decode = decode
        self._ids = list(prompt)
        self._window = max(0, len(self._ids) - 8)
        self._read = len(self._ids)
        # a window that starts inside of a character decodes to nothing but replacement characters
        while self._window and decode(self._ids[self._window :]).startswith("\ufffd"):
            self._window -= 1

    def push(self, token: int) -> str:
        """The text that one more id completes; empty inside of a character."""
        self._ids.append(token)
        return self._difference(whole=True)

    def end(self) -> str:
        """What is left when no more ids come."""
        return self._difference(whole=False)

    def _difference(self, whole: bool) -> str:
        before = self._decode(self._ids[self._window : self._read])
        after = self._decode(self._ids[self._window :])
        if len(after) <= len(before) or (whole and after.endswith("\ufffd")):
            return ""
        self._window, self._read = self._read, len(self._ids)
        return after[len(before) :]
