from training_runs import tracked, trained

__all__ = ["tracked", "trained"]  # fixtures
