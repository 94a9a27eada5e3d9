"""The modes of torch that a caller is in, and what they do to tensors that fastio makes.

Rule, and that of safetensors: the default device decides nothing, `device=` does. Modes that
dispatch get every tensor, as they do from `torch.from_numpy`: inside FakeTensorMode each one is a
fake, inside FunctionalTensorMode a functional one.
"""

from __future__ import annotations

import torch

lift = torch.ops.aten.lift_fresh.default
"""What torch itself calls for a tensor over memory from outside: it hands it to the modes."""

count = torch._C._len_torch_dispatch_stack
"""How many modes there are, in 50 ns; `lift` takes a microsecond."""

Outside = torch._C._DisableTorchDispatch
"""A context in which no mode sees what is done."""
