"""An interpreter of Core ML's ML programs (``.mlpackage``) in numpy, for any machine.

It computes every operation in float32 and rounds the result to the type that the program declares.
So it checks the file (weights, layout, state logic, rounding of results), not the arithmetic of a
device, which may also accumulate in float16 inside an operation.
"""

from .executor import Executable
from .ops import OPS
from .package import Package

__all__ = ["OPS", "Executable", "Package"]
