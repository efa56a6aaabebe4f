from promotions import no_gate, tracked  # noqa: F401
