"""Malformed and malicious files raise a WeightsError and execute nothing."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cnnarch
from cnnarch.weights import WeightsError, load
from cnnarch.weights.reading import extract_state_dict, read_safetensors, read_tensors


def pack(header: Any, data: bytes = b"") -> bytes:
    """Return the contents of a safetensors file. A header given as bytes is used as is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape: Any = None, dtype: str = "F32") -> dict[str, Any]:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_valid_file_is_read(tmp_path: Path) -> None:
    data = struct.pack("<3f", 1, 2, 3)
    header = {"__metadata__": {"format": "pt"}, "a": entry(0, 4, []), "b": entry(4, 12)}
    (tmp_path / "w.safetensors").write_bytes(pack(header, data))
    tensors, metadata = read_safetensors(tmp_path / "w.safetensors")
    assert metadata == {"format": "pt"}
    assert tensors["a"].item() == 1
    assert tensors["b"].tolist() == [2, 3]


def test_files_written_by_safetensors_are_read_exactly(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8]
    tensors = {str(d): torch.arange(6).reshape(2, 3).to(d) for d in dtypes}
    tensors |= {"bool": torch.tensor([True, False]), "none": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "w.safetensors")
    found, _ = read_safetensors(tmp_path / "w.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors[name])


def test_unaligned_tensors_are_copied(tmp_path: Path) -> None:
    header = {"a": entry(0, 1, [1], "U8"), "b": entry(1, 9, [1], "F64")}
    (tmp_path / "w.safetensors").write_bytes(pack(header, b"\1" + struct.pack("<d", 2.5)))
    tensors, _ = read_safetensors(tmp_path / "w.safetensors")
    assert tensors["b"].item() == 2.5
    assert tensors["b"].data_ptr() % 8 == 0


FLOAT = struct.pack("<f", 1.0)
MALFORMED = {
    "empty": b"",
    "unsupported dtype": pack({"a": entry(0, 1, [1], "F8_E4M3")}, b"\0"),
    "seven bytes": b"\0" * 7,
    "truncated header": pack({"a": entry(0, 4)}, FLOAT)[:20],
    "truncated data": pack({"a": entry(0, 4)}, FLOAT)[:-1],
    "more data than in the header": pack({"a": entry(0, 4)}, FLOAT * 2),
    "header longer than the file": struct.pack("<Q", 2**40) + b"{}",
    "header of 2**64 - 1 bytes": b"\xff" * 8 + b"{}",
    "large header of spaces": struct.pack("<Q", 17 * 2**20) + b" " * (17 * 2**20),
    "not JSON": pack(b"{'a'}"),
    "not UTF-8": pack(b'{"\xff": 1}'),
    "a list": pack([]),
    "NaN": pack(b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 4]}}', FLOAT),
    "Infinity": pack(b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [0, Infinity]}}', FLOAT),
    "deep nesting": pack(b"[" * 100_000 + b"]" * 100_000),
    "a number of a million digits": pack(b'{"a": ' + b"9" * 1_000_000 + b"}"),
    "duplicate name": pack(
        b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},'
        b' "a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}}',
        b"12",
    ),
    "offsets out of range": pack({"a": entry(0, 400)}, FLOAT),
    "offsets backwards": pack({"a": entry(4, 0, [])}, FLOAT),
    "negative offsets": pack({"a": entry(-4, 0, [])}, FLOAT),
    "offsets that overlap": pack({"a": entry(0, 8), "b": entry(4, 12)}, FLOAT * 3),
    "two tensors at the same offsets": pack({"a": entry(0, 4), "b": entry(0, 4)}, FLOAT),
    "a hole": pack({"a": entry(0, 4), "b": entry(8, 12)}, FLOAT * 3),
    "fractions": pack({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, FLOAT),
    "booleans": pack({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, FLOAT),
    "negative shape": pack({"a": entry(0, 4, [-1, -1])}, FLOAT),
    "shape that overflows": pack({"a": entry(0, 4, [2**62, 4])}, FLOAT),
    "huge empty shape": pack({"a": entry(0, 0, [2**63, 0])}),
    "wrong shape": pack({"a": entry(0, 4, [2])}, FLOAT),
    "unknown dtype": pack({"a": entry(0, 4, [1], "F7")}, FLOAT),
    "dtype of a different size": pack({"a": entry(0, 4, [1], "F64")}, FLOAT),
    "no dtype": pack({"a": {"shape": [1], "data_offsets": [0, 4]}}, FLOAT),
    "entry is a string": pack({"a": "F32"}),
    "metadata of numbers": pack({"__metadata__": {"a": 1}}),
    "metadata is a list": pack({"__metadata__": []}),
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_safetensors_file_raises(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(
        WeightsError, match=r"w\.safetensors is not|cannot be read|unsupported dtype"
    ):
        read_safetensors(path)


def test_a_malformed_config_in_the_metadata_raises(tmp_path: Path) -> None:
    for text in ("[", "[3]", "3", '{"builder": 3}', '{"builder": "x", "options": 3}', "[" * 10**5):
        content = pack({"__metadata__": {"cnnarch": text}})
        (tmp_path / "w.safetensors").write_bytes(content)
        with pytest.raises(WeightsError, match="is not a cnnarch or timm config"):
            cnnarch.from_pretrained(tmp_path / "w.safetensors")


# Pickles


class Sentinel:
    """An object that creates a folder if its pickle is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def zipped(path: Path, content: Any) -> None:
    torch.save(content, path)


def legacy(path: Path, content: Any) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def bare(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content))


def old_protocol(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content, protocol=0))


WRITERS = [zipped, legacy, bare, old_protocol]
SUFFIXES = ["pth", "pt", "bin", "ckpt"]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("position", ["only content", "next to tensors", "in a wrapper"])
def test_a_malicious_pickle_is_not_executed(
    tmp_path: Path, write: Callable[[Path, Any], None], suffix: str, position: str
) -> None:
    trap, sentinel = Sentinel(tmp_path / "executed"), tmp_path / "executed"
    tensors = {"weight": torch.ones(2)}
    content: Any = {
        "only content": trap,
        "next to tensors": {**tensors, "trap": trap},
        "in a wrapper": {"state_dict": tensors, "optimizer": [trap]},
    }[position]
    path = tmp_path / f"w.{suffix}"
    write(path, content)
    model = torch.nn.Linear(1, 1)
    with pytest.raises(WeightsError, match="Nothing in it was executed"):
        load(model, path)
    assert not sentinel.exists()
    pickle.loads(pickle.dumps(trap))  # check that the trap works
    assert sentinel.exists()


def test_a_whole_module_is_not_unpickled(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"contains a torch\.nn\.[\w.]*Linear.*save only its"):
        load(torch.nn.Linear(1, 1), tmp_path / "w.pth")


def test_a_torchscript_archive_is_rejected(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(1)}, buffer)
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(tmp_path / "w.pt", "w") as other:
        for member in archive.infolist():
            other.writestr(member.filename, archive.read(member))
        other.writestr("archive/constants.pkl", b"")
    with pytest.raises(
        WeightsError, match="is a TorchScript archive, which contains executable code"
    ):
        load(torch.nn.Linear(1, 1), tmp_path / "w.pt")


def test_pickles_are_rejected_with_an_unsafe_version_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"weight": torch.ones(1, 1), "bias": torch.ones(1)}, tmp_path / "w.pth")
    load(torch.nn.Linear(1, 1), tmp_path / "w.pth")
    monkeypatch.setattr("cnnarch.weights.torch_file.torch.__version__", "2.9.1+cpu")
    with pytest.raises(WeightsError, match=r"which torch 2\.9\.1\+cpu cannot read safely"):
        load(torch.nn.Linear(1, 1), tmp_path / "w.pth")


# Archives


def rezip(source: Path, target: Path, **how: Any) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **how) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))


def test_a_zip_bomb_is_rejected_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2**24)}, tmp_path / "plain.pth")
    rezip(tmp_path / "plain.pth", tmp_path / "bomb.pth", compression=zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pth").stat().st_size < 2**17
    with pytest.raises(WeightsError, match="compressed"):
        load(torch.nn.Linear(1, 1), tmp_path / "bomb.pth")


def test_an_archive_with_overlapping_members_is_rejected(tmp_path: Path) -> None:
    """Many entries in the central directory refer to one large member."""
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 10_000)
        (member,) = archive.infolist()
        for number in range(100):
            duplicate = zipfile.ZipInfo(f"archive/data/{number}")
            for name in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(duplicate, name, getattr(member, name))
            archive.filelist.append(duplicate)
    with pytest.raises(WeightsError, match="unpack to more bytes than it contains"):
        load(torch.nn.Linear(1, 1), path)


@pytest.mark.parametrize("keep", [0, 3, 4, 100, -1, -30])
def test_a_truncated_pickle_raises(tmp_path: Path, keep: int) -> None:
    for write in (zipped, legacy):
        write(tmp_path / "w.pth", {"weight": torch.ones(1, 1), "bias": torch.ones(1)})
        content = (tmp_path / "w.pth").read_bytes()
        (tmp_path / "w.pth").write_bytes(content[:keep])
        with pytest.raises(WeightsError):
            load(torch.nn.Linear(1, 1), tmp_path / "w.pth")


def test_a_huge_expanded_tensor_is_rejected_without_allocating_it(tmp_path: Path) -> None:
    """With a stride of 0, one value expands to a terabyte. The shape is checked before copying."""
    huge = torch.zeros(1).expand(2**38)
    torch.save({"weight": huge, "bias": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="but the network has"):
        load(torch.nn.Linear(1, 1), tmp_path / "w.pth")


# Paths


def test_a_shard_index_may_list_only_files_in_its_folder(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"weight": torch.ones(1, 1)}, folder / "one.safetensors")
    save_file({"bias": torch.ones(1)}, folder / "two.safetensors")
    save_file({"bias": torch.ones(1)}, tmp_path / "outside.safetensors")
    index = folder / "model.safetensors.index.json"

    def write(shard: Any) -> None:
        shards = {"weight": "one.safetensors", "bias": shard}
        index.write_text(json.dumps({"weight_map": shards}))

    write("two.safetensors")
    for source in (folder, index):
        model = torch.nn.Linear(1, 1)
        load(model, source)
        assert model.bias.item() == 1
    outside = str(tmp_path / "outside.safetensors")
    for shard in ("../outside.safetensors", outside, "..\\outside.safetensors", ".", "", 3):
        write(shard)
        with pytest.raises(WeightsError, match=r"is not a weights file in the same folder"):
            load(torch.nn.Linear(1, 1), folder)
    write("one.safetensors")
    with pytest.raises(WeightsError, match="does not list exactly the tensors"):
        load(torch.nn.Linear(1, 1), folder)
    for text in ("", "[]", "{}", '{"weight_map": 3}', "[" * 10**5):
        index.write_text(text)
        with pytest.raises(WeightsError, match="is not an index of shards"):
            load(torch.nn.Linear(1, 1), folder)


@pytest.mark.parametrize("name", ["../w.safetensors", "/etc/passwd", "", "a/b.safetensors"])
def test_a_config_can_name_only_a_file_in_its_folder(tmp_path: Path, name: str) -> None:
    config = {"builder": "resnet18", "weights": name}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="is not a file in the same folder"):
        cnnarch.from_pretrained(tmp_path)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_pipes_devices_and_broken_links_raise_without_blocking(tmp_path: Path, suffix: str) -> None:
    names = [tmp_path / f"{kind}.{suffix}" for kind in ("pipe", "loop", "dangling", "device")]
    pipe, loop, dangling, device = names
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    dangling.symlink_to(tmp_path / "nothing")
    device.symlink_to("/dev/zero")
    for path in names:
        with pytest.raises(WeightsError, match=path.name):
            load(torch.nn.Linear(1, 1), path)
    with pytest.raises(WeightsError, match="cannot be read"):
        load(torch.nn.Linear(1, 1), f"nul\0byte.{suffix}")


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1, 1), "bias": torch.ones(1)}, tmp_path / "w.pth")
    (tmp_path / "link.pth").symlink_to("w.pth")
    load(torch.nn.Linear(1, 1), tmp_path / "link.pth")


def test_a_config_that_is_too_large_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b" " * (5 * 2**20))
    with pytest.raises(WeightsError, match="is larger than 4194304 bytes"):
        cnnarch.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [3, [], {}, {"a": 1}, {3: torch.ones(1)}, {"state_dict": {}}])
def test_contents_without_named_tensors_raise(content: Any) -> None:
    with pytest.raises(WeightsError, match="x contains"):
        extract_state_dict(content, "x")


def test_threads_can_read_pickles_concurrently(tmp_path: Path) -> None:
    import argparse

    path = tmp_path / "w.pth"
    torch.save({"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=1)}, path)
    found: list[float] = []

    def read() -> None:
        for _ in range(20):
            found.append(read_tensors(path)[0]["a"].item())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1.0] * 80


def test_a_new_process_does_not_execute_a_malicious_pickle(tmp_path: Path) -> None:
    torch.save(Sentinel(tmp_path / "executed"), tmp_path / "w.pth")
    code = f"import cnnarch; cnnarch.resnet18(weights={str(tmp_path / 'w.pth')!r})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 1
    assert "WeightsError" in out.stderr
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("entry", [3, {"builder": 3}, {"options": torch.ones(1)}, {"builder": "x"}])
def test_a_malformed_description_in_a_state_dict_raises(entry: Any) -> None:
    state = cnnarch.lenet5().state_dict()
    state._metadata[""]["cnnarch"] = entry
    with pytest.raises(WeightsError):
        cnnarch.lenet5(weights=state)
    with pytest.raises(RuntimeError, match="describes its network incorrectly"):
        cnnarch.lenet5().load_state_dict(state)
