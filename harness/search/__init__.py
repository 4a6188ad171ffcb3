"""`nas` with boards at hand: trainings and searches that measure. What is searched, and how, is `nas`'s."""
