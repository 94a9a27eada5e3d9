"""JAX arrays.

Values of 64 bits become such of 32, as everywhere in JAX, unless ``jax_enable_x64`` is set.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from fastio.frameworks.through_numpy import ArrayFramework

FRAMEWORK = ArrayFramework("jax", make=jnp.asarray, array_of=np.asarray)
