"""Every kernel the compiler can emit: one catalogue, one template a family, constants as values."""
