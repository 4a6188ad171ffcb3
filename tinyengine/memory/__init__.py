"""Where every byte of the arena lives and when: lifetimes, the planner, and the plan as a value."""
