"""What differs between processors in the last digits of computed numbers."""


def wide_vector_units() -> str:
    """The vector units of this processor that NumPy may do without, as NPY_DISABLE_CPU_FEATURES wants them."""
    from numpy._core import _multiarray_umath as numpy

    return " ".join(name for name in numpy.__cpu_dispatch__ if numpy.__cpu_features__[name])
