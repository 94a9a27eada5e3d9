"""The digest that all contenders share, and the touch of pages that all of them pay for."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from bench.measure import answers, models


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "large": rng.integers(0, 255, (3, answers.PIECE_BYTES // 2), dtype=np.uint8),
        "matrix": rng.standard_normal((4, 6)).astype(np.float32),
        "same": rng.standard_normal((4, 6)).astype(np.float32),
        "scalar": np.array(7, dtype=np.int64),
        "empty": np.zeros((0, 3), dtype=np.float16),
    }


def test_the_order_of_tensors_does_not_matter():
    one = tensors()
    assert answers.digest(one) == answers.digest(dict(reversed(one.items())))


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t["large"].__setitem__((2, 12345), t["large"][2, 12345] ^ 1),
        lambda t: t["matrix"].view(np.uint32).__setitem__((0, 0), 0),
        lambda t: t.update(matrix=t["same"], same=t["matrix"]),
        lambda t: t.update(matrix=t["matrix"].view(np.int32)),
        lambda t: t.update(matrix=t["matrix"].reshape(6, 4)),
        lambda t: t.update(empty=t["empty"].reshape(3, 0)),
        lambda t: t.update(other=t.pop("scalar")),
        lambda t: t.pop("empty"),
    ],
)
def test_any_change_is_seen(change):
    changed, original = tensors(), tensors()
    change(changed)
    assert answers.digest(changed) != answers.digest(original)
    assert answers.differences(changed, original) != []


def test_equal_tensors_do_not_differ_and_one_byte_is_found_and_named():
    changed = tensors()
    assert answers.differences(changed, tensors()) == []
    changed["large"][-1, -1] ^= 128
    assert answers.differences(changed, tensors()) == ["large"]


def test_strided_arrays_are_refused():
    with pytest.raises(answers.AnswerError, match="matrix"):
        answers.digest({"matrix": tensors()["matrix"].T})


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_a_file_and_its_tensors_have_one_digest(tmp_path: Path, name: str):
    path = models.make(name, tmp_path)
    content = path.read_bytes()
    dtypes = {"F32": np.dtype(np.float32), "BF16": pytest.importorskip("ml_dtypes").bfloat16}
    loaded = {
        entry.name: np.frombuffer(
            content[entry.begin : entry.begin + entry.nbytes], dtype=dtypes[entry.dtype]
        ).reshape(entry.shape)
        for entry in answers.file_entries(path)
    }
    assert answers.digest(loaded) == answers.file_digest(path)
    assert answers.tensor_bytes(path) == sum(array.nbytes for array in loaded.values())


def test_torch_and_numpy_have_one_digest():
    torch = pytest.importorskip("torch")
    assert answers.digest({name: torch.from_numpy(a) for name, a in tensors().items()}) == (
        answers.digest(tensors())
    )


def test_touch_reads_a_byte_of_every_page_that_holds_a_tensor(tmp_path: Path):
    page = answers.PAGE_BYTES
    path = tmp_path / "file"
    path.write_bytes(bytes(64 * page))
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        whole = np.frombuffer(mapped, dtype=np.uint8)
        parts = {
            "over_an_edge": whole[page - 1 : page + 1],
            "far": whole[30 * page : 33 * page],
            "within": whole[31 * page + 5 : 31 * page + 9],
            "next_to_far": whole[33 * page : 33 * page + 1],
            "nothing": whole[50 * page : 50 * page],
        }
        # Pages 0, 1, and 30 to 33.
        assert answers.touch(parts) == 6
        del parts, whole
    assert answers.touch({}) == 0


@pytest.mark.parametrize("order", [1, -1])
def test_tensors_that_come_one_by_one_have_the_same_digest(order: int):
    running = answers.RunningDigest()
    for name, tensor in list(tensors().items())[::order]:
        running.add(name, tensor)
    assert running.result() == answers.digest(tensors())
    assert running.count == 5
    assert running.nbytes == sum(tensor.nbytes for tensor in tensors().values())
    with pytest.raises(answers.AnswerError, match="matrix came twice"):
        running.add("matrix", tensors()["matrix"])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(0, (0, 0)), (1, (0, 1)), (2, (1, 2)), (199, (99, 100)), (2048, (1024, 1044))],
)
def test_one_percent_of_the_rows_is_at_least_one_and_lies_in_the_middle(rows, expected):
    assert answers.middle_rows(rows) == expected


def test_the_middle_of_a_file_is_that_of_its_tensors(tmp_path: Path):
    numpy = pytest.importorskip("safetensors.numpy")
    path = models.make("small", tmp_path)
    parts = {
        name: tensor[slice(*answers.middle_rows(len(tensor)))]
        for name, tensor in numpy.load_file(path).items()
    }
    entries = [answers.middle(entry) for entry in answers.file_entries(path)]
    assert sum(entry.nbytes for entry in entries) == sum(part.nbytes for part in parts.values())
    assert answers.digest(parts) == answers.file_digest(path, entries)
    assert answers.digest(parts) != answers.file_digest(path)


def test_a_single_value_has_no_rows():
    with pytest.raises(ValueError, match="scalar"):
        answers.middle(answers.Entry("scalar", "I64", (), 0, 8))


def test_names_are_compared_without_their_order():
    assert answers.names_digest(["a", "b"]) == answers.names_digest(iter("ba"))
    assert answers.names_digest(["a", "b"]) != answers.names_digest(["ab"])
