"""Register models of the STM32 peripherals that the firmware, pyOCD and its flash algorithms use."""
