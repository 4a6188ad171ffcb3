"""What lies between a runner and a board: debug port, serial line and the dialogue over it. No model, no store."""
