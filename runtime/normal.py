"""Standard normal noise, bit-identical on every platform and in every language.

A word m of :mod:`philox` becomes u = (m + 0.5) / 2^32 and z = float32(PPND16(u)): Algorithm AS 241
(M. J. Wichura, Applied Statistics 37, 1988, 477-484) in binary64 with a logarithm of our own.
Only + - * / sqrt of binary64, integer operations and one rounding to float32 are used, and THEIR
ORDER IS PART OF THE DEFINITION; no multiply-add may be contracted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .philox import words

_F64 = npt.NDArray[np.float64]

# fmt: off
# Numerators and denominators of AS 241's three rational approximations.
_A = (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3,
      1.3731693765509461125e4, 4.5921953931549871457e4, 6.7265770927008700853e4,
      3.3430575583588128105e4, 2.5090809287301226727e3)
_B = (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
      2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4,
      5.2264952788528545610e3)
_C = (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
      3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
      2.27238449892691845833e-2, 7.74545014278341407640e-4)
_D = (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
      1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
      1.05075007164441684324e-9)
_E = (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0,
      2.96560571828504891230e-1, 2.65321895265761230930e-2, 1.24266094738807843860e-3,
      2.71155556874348757815e-5, 2.01033439929228813265e-7)
_F = (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
      7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
      2.04426310338993978564e-15)
# fmt: on
_LN2 = 0.6931471805599453
_TWO_POW_MINUS_33 = 1.1641532182693481e-10


def _horner(coefficients: tuple[float, ...], r: _F64) -> _F64:
    value = coefficients[7] * r + coefficients[6]
    for k in (5, 4, 3, 2, 1, 0):
        value = value * r + coefficients[k]
    return value


def _negative_log(word: npt.NDArray[np.uint32]) -> _F64:
    """-ln((word + 0.5) / 2^32): exponent of the odd integer 2 word + 1, atanh series to s^19."""
    bits = (word.astype(np.float64) * 2.0 + 1.0).view(np.uint64)
    exponent = (bits >> np.uint64(52)).astype(np.int64) - 1023
    mantissa = (bits & np.uint64(0x000FFFFFFFFFFFFF)) | np.uint64(0x3FF0000000000000)
    f = mantissa.view(np.float64)  # [1, 2)
    big = f > 1.4142135623730951
    f = np.where(big, f * 0.5, f)
    exponent = exponent + big
    s = (f - 1.0) / (f + 1.0)  # |s| < 0.1716
    w = s * s
    p = w * (1 / 19.0) + (1 / 17.0)
    for odd in (15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
        p = p * w + (1 / odd)
    p = p * w + 1.0
    negative: _F64 = 0.0 - ((exponent - 33).astype(np.float64) * _LN2 + (s + s) * p)
    return negative


def normals_from_words(word: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """Standard normal float32 values, one for each 32-bit word, of the same shape."""
    q = (word.astype(np.float64) * 2.0 + 1.0 - 4294967296.0) * _TWO_POW_MINUS_33  # u - 0.5, exact
    z = np.empty(word.shape, np.float64)
    central = np.abs(q) <= 0.425
    q_central = q[central]
    r = 0.180625 - q_central * q_central
    z[central] = q_central * _horner(_A, r) / _horner(_B, r)
    q_tail, word_tail = q[~central], word[~central]
    # 1 - u is the word 2^32 - 1 - m, exactly: hence z(2^32 - 1 - m) == -z(m) bit for bit.
    r = np.sqrt(_negative_log(np.where(q_tail < 0, word_tail, np.uint32(0xFFFFFFFF) - word_tail)))
    near, far = r - 1.6, r - 5.0  # far needs u < 2^-36, which a 32-bit word never gives
    tail = np.where(
        r <= 5.0, _horner(_C, near) / _horner(_D, near), _horner(_E, far) / _horner(_F, far)
    )
    z[~central] = np.where(q_tail < 0, 0.0 - tail, tail)
    return z.astype(np.float32)


def normals(seed: int, count: int, start: int = 0, domain: int = 0) -> npt.NDArray[np.float32]:
    """``count`` standard normal values of the stream of ``seed``; arguments as in words()."""
    return normals_from_words(words(seed, count, start, domain))
