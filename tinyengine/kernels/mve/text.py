"""Assembly as lines with a comment each, in the order they are written: nothing is scheduled for a pipeline."""

from __future__ import annotations

PLACEHOLDER_LINES = (
    "    .p2align 2",
    "    .global {name}",
    "    .type {name}, %function",
    "    .thumb_func",
    "{name}:",
)
_CODE_COLUMN = 44


class Text:
    """One function."""

    def __init__(self, name: str, comment: str, frame_bytes: int = 0, *, small: bool = False) -> None:
        """Saves what the procedure call standard protects; `frame_bytes` from sp on are the function's own.

        Args:
            small: it uses r0-r3, r12, lr and q0-q3 only.
        """
        self._small = small
        # r4-r11 and lr are nine words: one more keeps the stack a multiple of 8.
        self._frame = frame_bytes + (4 if frame_bytes % 8 == 0 else 0)
        self._lines = [f"/* {comment} */", *(line.format(name=name) for line in PLACEHOLDER_LINES)]
        self._labels = 0
        self.instructions = 0
        if small:
            self("push {r7, lr}")
            return
        self("push {r4-r11, lr}")
        self("vpush {d8-d15}")
        self(f"sub sp, sp, #{self._frame}")

    def __call__(self, code: str, comment: str = "") -> None:
        """One instruction."""
        self.instructions += 1
        self._lines.append(f"    {code:<{_CODE_COLUMN}}{'@ ' + comment if comment else ''}".rstrip())

    def label(self) -> str:
        """Places a new local label here."""
        self._labels += 1
        self._lines.append(f"{self._labels}:")
        return f"{self._labels}b"

    def forward(self) -> str:
        """A local label that `place` will place."""
        self._labels += 1
        return f"{self._labels}f"

    def place(self, forward: str) -> None:
        """Places a label of `forward`."""
        self._lines.append(f"{forward[:-1]}:")

    def add(self, to: str, source: str, amount: int, spare: str, comment: str = "") -> None:
        """to = source + amount; a large amount passes through `spare`."""
        if amount == 0:
            if to != source:
                self(f"mov {to}, {source}", comment)
        elif abs(amount) < 4096:
            self(f"{'add' if amount > 0 else 'sub'}w {to}, {source}, #{abs(amount)}", comment)
        else:
            self.constant(spare, abs(amount))
            self(f"{'add' if amount > 0 else 'sub'} {to}, {source}, {spare}", comment)

    def constant(self, to: str, value: int, comment: str = "") -> None:
        """to = value."""
        bits = value & 0xFFFFFFFF
        if bits >= 0xFFFF0000:
            self(
                f"mvn {to}, #{~bits & 0xFFFFFFFF}" if ~bits & 0xFFFFFFFF < 256 else f"movw {to}, #{bits & 0xFFFF}"
            )
            if ~bits & 0xFFFFFFFF >= 256:
                self(f"movt {to}, #{bits >> 16}", comment)
            return
        self(f"movw {to}, #{bits & 0xFFFF}", comment)
        if bits >> 16:
            self(f"movt {to}, #{bits >> 16}")

    def end(self) -> str:
        """Restores and returns; the whole text."""
        if self._small:
            self("pop {r7, pc}")
        else:
            self(f"add sp, sp, #{self._frame}")
            self("vpop {d8-d15}")
            self("pop {r4-r11, pc}")
        return "\n".join(self._lines) + "\n"
