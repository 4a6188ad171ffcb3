"""Virtual STM32 boards: a process each, reached through stock pyOCD and a real pty."""
