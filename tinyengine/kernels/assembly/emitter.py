"""Writes instructions in order, hands regions to the scheduler, and frames a function by the call standard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from tinyengine.kernels.assembly.instruction import FLAGS, Instruction, Kind, Register
from tinyengine.kernels.assembly.scheduler import Core, schedule

CALLEE_SAVED = ("r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11")
MOST_LOAD_OFFSET_BYTES = 4095
"""A 12-bit immediate offset of LDR and STR (encoding T3)."""


class Emitter:
    """Collects the body of one function.

    Outside `scheduled()` instructions keep their order; inside, the core's scheduler may move them.
    """

    def __init__(self, core: Core) -> None:
        self.core = core
        self._done: list[Instruction] = []
        self._region: list[Instruction] | None = None
        self._cold: list[Instruction] = []

    def _add(self, instruction: Instruction) -> None:
        (self._done if self._region is None else self._region).append(instruction)

    @contextmanager
    def scheduled(self) -> Iterator[None]:
        """A region without branches whose instructions may be reordered."""
        self._region = []
        try:
            yield
        finally:
            region, self._region = self._region, None
        self._done.extend(schedule(region, self.core))

    @contextmanager
    def out_of_line(self) -> Iterator[None]:
        """Code behind the function's end, for what is rare: reached by a branch, left by a branch or `leave`."""
        hot, self._done = self._done, self._cold
        try:
            yield
        finally:
            self._cold, self._done = self._done, hot

    # --- memory ---

    def ldr(self, rd: Register, base: Register, offset: int = 0, comment: str = "") -> None:
        self._load("ldr", rd, base, offset, comment)

    def ldrsb(self, rd: Register, base: Register, offset: int = 0, comment: str = "") -> None:
        self._load("ldrsb", rd, base, offset, comment)

    def _load(self, op: str, rd: Register, base: Register, offset: int, comment: str) -> None:
        _check_offset(offset)
        self._add(
            Instruction(
                text=f"{op} {rd}, [{base}, #{offset}]",
                kind=Kind.LOAD,
                writes=frozenset({rd}),
                reads=frozenset({base}),
                address=frozenset({base}),
                bank=offset >> 2 & 1,
                comment=comment,
            )
        )

    def ldr_index(self, rd: Register, base: Register, index: Register, lsl: int, comment: str = "") -> None:
        self._add(
            Instruction(
                text=f"ldr {rd}, [{base}, {index}, lsl #{lsl}]",
                kind=Kind.LOAD,
                writes=frozenset({rd}),
                reads=frozenset({base, index}),
                address=frozenset({base, index}),
                comment=comment,
            )
        )

    def store(self, op: str, rs: Register, base: Register, offset: int = 0, comment: str = "") -> None:
        """`op` is str, strh or strb."""
        _check_offset(offset)
        self._add(
            Instruction(
                text=f"{op} {rs}, [{base}, #{offset}]",
                kind=Kind.STORE,
                reads=frozenset({rs, base}),
                address=frozenset({base}),
                comment=comment,
            )
        )

    # --- arithmetic ---

    def multiply(
        self, op: str, rd: Register, rn: Register, rm: Register, ra: Register | None = None, comment: str = ""
    ) -> None:
        """smlad, smlabb, smlabt, smlatb, smlatt, smmla, smmlar (with `ra`), smuad, smmulr, mul (without)."""
        reads = {rn, rm} | ({ra} if ra else set())
        self._add(
            Instruction(
                text=f"{op} {rd}, {rn}, {rm}" + (f", {ra}" if ra else ""),
                kind=Kind.MULTIPLY,
                writes=frozenset({rd}),
                reads=frozenset(reads),
                accumulator=ra,
                comment=comment,
            )
        )

    def dsp(self, text: str, rd: Register, *sources: Register, comment: str = "") -> None:
        """Any of SXTB16, PKHBT, PKHTB, BFI, SSAT, SADD16, SSUB16, written out in `text`."""
        self._add(
            Instruction(
                text=text,
                kind=Kind.SATURATE if text.startswith("ssat ") else Kind.DSP,
                writes=frozenset({rd}),
                reads=frozenset(sources),
                comment=comment,
            )
        )

    def alu(
        self, text: str, rd: Register | None, *sources: Register, comment: str = "", sets: bool = False
    ) -> None:
        """ADD, SUB, MOV, LSL, ASR, CMP ... written out in `text`; `sets` when it writes the flags."""
        writes = ({rd} if rd else set()) | ({FLAGS} if sets else set())
        shifted = any(f"{s} #" in text for s in (" asr", " lsl", " lsr", " ror")) and text.count(",") > 2
        self._add(
            Instruction(
                text=text,
                kind=Kind.SHIFTED if shifted else Kind.ALU,
                writes=frozenset(writes),
                reads=frozenset(sources),
                comment=comment,
            )
        )

    def add_immediate(self, rd: Register, rn: Register, value: int, comment: str = "") -> None:
        """rd = rn + value, in as few instructions as the encodings allow (|value| < 2^24)."""
        op, rest = ("add", value) if value >= 0 else ("sub", -value)
        if rest == 0:
            if rd != rn:
                self.alu(f"mov {rd}, {rn}", rd, rn, comment=comment)
            return
        source = rn
        if rest > 4095:
            high = rest & ~0xFFF
            for chunk in _modified_immediates(high):
                self.alu(f"{op} {rd}, {source}, #{chunk}", rd, source, comment=comment)
                source = rd
            rest &= 0xFFF
        if rest:
            self.alu(f"{op} {rd}, {source}, #{rest}", rd, source, comment=comment)

    def constant(self, rd: Register, value: int, comment: str = "") -> None:
        """rd = value (32 bits)."""
        value &= 0xFFFFFFFF
        self.alu(f"movw {rd}, #{value & 0xFFFF}", rd, comment=comment)
        if value >> 16:
            self.alu(f"movt {rd}, #{value >> 16}", rd, rd)

    def to_fp(self, fp: Register, source: Register, comment: str = "") -> None:
        self._add(
            Instruction(
                text=f"vmov {fp}, {source}",
                kind=Kind.MOVE_TO_FP,
                writes=frozenset({fp}),
                reads=frozenset({source}),
                comment=comment,
            )
        )

    def from_fp(self, rd: Register, fp: Register, comment: str = "") -> None:
        self._add(
            Instruction(
                text=f"vmov {rd}, {fp}",
                kind=Kind.MOVE_FROM_FP,
                writes=frozenset({rd}),
                reads=frozenset({fp}),
                comment=comment,
            )
        )

    def floating(self, text: str, fp: Register, *sources: Register, comment: str = "") -> None:
        """VMUL, VCVT, VCVTR in single precision, written out in `text`."""
        self._add(
            Instruction(
                text=text, kind=Kind.FLOAT, writes=frozenset({fp}), reads=frozenset(sources), comment=comment
            )
        )

    # --- flow ---

    def branch_out(self, condition: str, label: str, *reads: Register, comment: str = "") -> None:
        """To out-of-line code that reads `reads`; in a region everything its code needs is done before."""
        self._add(
            Instruction(
                text=f"b{condition} {label}", kind=Kind.BRANCH, reads=frozenset({*reads, FLAGS}), comment=comment
            )
        )

    def leave(self) -> None:
        """Return from the function."""
        self.fixed("pop {r3-r11, pc}")

    def fixed(self, text: str, comment: str = "") -> None:
        """An instruction nothing may move across; never inside `scheduled()`."""
        if self._region is not None:
            raise ValueError(f"{text!r} cannot stand in a scheduled region")
        self._add(Instruction(text=text, kind=Kind.FIXED, comment=comment))

    def label(self, name: str, align: bool = True) -> None:
        """A loop's head; aligned to a word, as a taken branch wants it."""
        if align:
            self.fixed(".p2align 2")
        self.fixed(f"{name}:")

    def function(self, name: str, body: Callable[[], None], comment: str) -> str:
        """The text of a global function around `body`, which may use r0-r12, lr and s0-s15 freely."""
        body()
        lines = [f"@ {line}" for line in comment.splitlines()]
        lines += [
            f"    .global {name}",
            f"    .type {name}, %function",
            "    .thumb_func",
            "    .p2align 3",
            f"{name}:",
        ]
        # Nine registers: one more keeps the stack 8-byte aligned.
        lines.append("    push {r3-r11, lr}")
        self.leave()
        self._done += self._cold
        if self.core is Core.M4:
            self._done = [_wide(i) for i in self._done]
        lines += [i.render() for i in self._done]
        lines.append(f"    .size {name}, . - {name}")
        return "\n".join(lines) + "\n"


_MAY_BE_NARROW = frozenset(
    {
        "ldr",
        "str",
        "strh",
        "strb",
        "mov",
        "add",
        "cmp",
        "subs",
        "adds",
        "uxth",
        "eor",
        "bne",
        "beq",
        "bge",
        "blt",
        "bcs",
        "b",
        "lsls",
    }
)


def _wide(instruction: Instruction) -> Instruction:
    """The 32-bit encoding of an instruction the assembler might make a halfword.

    Cortex-M4 fetches words: a load that straddles two does not pipeline with the load before it, which costs these
    kernels a quarter of their speed. With every instruction a word, none straddles.
    """
    op, _, rest = instruction.text.partition(" ")
    if op not in _MAY_BE_NARROW or (op == "add" and "#" in rest):
        return instruction
    return replace(instruction, text=f"{op}.w {rest}")


def _check_offset(offset: int) -> None:
    if not -255 <= offset <= MOST_LOAD_OFFSET_BYTES:
        raise ValueError(f"offset {offset} does not fit the instruction")


def _modified_immediates(value: int) -> tuple[int, ...]:
    """`value` as a sum of 8-bit fields at even or odd shifts, largest first."""
    chunks = []
    while value:
        shift = max(value.bit_length() - 8, 0)
        chunk = value >> shift << shift
        chunks.append(chunk)
        value -= chunk
    return tuple(chunks)
