"""Another processor: on PYTHONPATH, half of NumPy's logarithms differ in the last digit, as without AVX-512."""

import contextlib

import numpy as np

with contextlib.suppress(ImportError):
    import ml_dtypes  # noqa: F401  # TensorFlow's: it adds its types to NumPy's own functions, and must find these


def _other(function: np.ufunc):
    def other(x, /, *more, **options):
        result = function(x, *more, **options)
        if more or options or getattr(result, "dtype", None) != np.float64:
            return result
        changed = np.asarray(result).view(np.int64) >> 1 & 1
        return result * np.where(changed, 1 + 2.0**-52, 1.0)

    return other


for _name in ("exp", "expm1", "log", "log10", "log1p", "log2"):
    setattr(np, _name, _other(getattr(np, _name)))
