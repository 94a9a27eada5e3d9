"""Tensors of torch that share memory: which of their names stands in a file for which others.

https://huggingface.co/docs/safetensors/torch_shared_tensors: tensors of one storage whose bytes
touch are one group, of which one name stands in a file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import torch


def aliases(
    state: Mapping[str, torch.Tensor],
    preferred: Collection[str] = (),
    discarded: Collection[str] = (),
) -> dict[str, str]:
    """Return the names that another name stands for, each with that one.

    Parameters
    ----------
    state : mapping of str to torch.Tensor
    preferred : collection of str
        Names to take where there is a choice.
    discarded : collection of str
        Names to take only where there is no choice. Among others it is the first one.

    Raises
    ------
    RuntimeError
        If none of a group, also of one tensor, covers its storage.
    """
    found = {}
    for group in groups(state):
        covering = sorted(name for name in group if covers_its_storage(state[name]))
        if not covering:
            raise RuntimeError(
                f"none of {', '.join(sorted(group))} covers the storage that it is a view of: it "
                "cannot be told what of it a file has"
            )
        standing = next(
            (name for name in covering if name in preferred),
            next((name for name in covering if name not in discarded), covering[0]),
        )
        found.update({name: standing for name in sorted(group) if name != standing})
    return found


def groups(state: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Return the names of tensors that share memory, together; of others, each alone.

    Tensors that have no memory here (on the device meta, empty, sparse, functional) are in none.

    Raises
    ------
    Nothing.
    """
    of_storages: dict[tuple[torch.device, int, int], list[tuple[int, int, str]]] = defaultdict(list)
    for name, tensor in state.items():
        memory = _memory(tensor)
        if memory is not None:
            key = tensor.device, memory[0], memory[1]
            of_storages[key].append((tensor.data_ptr(), _end(tensor), name))
    found: list[list[str]] = []
    for areas in of_storages.values():
        reached = 0
        for begin, end, name in sorted(areas):
            if begin < reached:
                found[-1].append(name)
            else:
                found.append([name])
            reached = end
    return found


def agree(
    state: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], names: Collection[str]
) -> bool:
    """Return whether tensors of a file that went to the same memory have the same values.

    Parameters
    ----------
    state : mapping of str to torch.Tensor
        The memory, after one of them was copied there.
    tensors : mapping of str to torch.Tensor
    names : collection of str
        Which of them.

    Raises
    ------
    Nothing.
    """
    return all(_same_bytes(tensors[name].to(state[name]), state[name]) for name in names)


def _same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Not `torch.equal`, to which NaN is not itself."""
    if one.shape != other.shape:
        return False
    one, other = (each.detach().reshape(-1).view(torch.uint8) for each in (one, other))
    return torch.equal(one, other)


def _memory(tensor: torch.Tensor) -> tuple[int, int] | None:
    """The address and the bytes of the storage; None for a tensor that has none to share."""
    if torch.nn.parameter.is_lazy(tensor) or tensor.is_nested:
        return None
    if tensor.device.type == "meta" or tensor.layout is not torch.strided:
        return None
    if type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        return None  # a fake, a DTensor: its values are not its own
    try:
        storage = tensor.untyped_storage()
        address, nbytes = storage.data_ptr(), storage.nbytes()
    except RuntimeError:  # inside of a transform, whose tensors wrap others
        return None
    return (address, nbytes) if address and nbytes else None


def _end(tensor: torch.Tensor) -> int:
    """The address behind the last value."""
    if not tensor.numel():
        return tensor.data_ptr()
    reach = sum(
        stride * (length - 1) for stride, length in zip(tensor.stride(), tensor.shape, strict=True)
    )
    return tensor.data_ptr() + (reach + 1) * tensor.element_size()


def covers_its_storage(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has all bytes of its storage."""
    storage = tensor.untyped_storage()
    return (
        tensor.data_ptr() == storage.data_ptr()
        and tensor.numel() * tensor.element_size() == storage.nbytes()
    )
