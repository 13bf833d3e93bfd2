"""Writes `graph.onnx`, its digest, and the first inputs of every corpus: python seeds.py (needs NumPy, Pillow, ONNX and PyTorch)

`fuzz/run` adds inputs with new coverage in target/fuzz/corpus; some of them, minimised, are kept beside these."""

import csv
import hashlib
import io
import json
import pathlib
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
FIXTURES = ROOT / "tests/fixtures"


def put(target, name, data):
    path = HERE / "corpus" / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def graph(output="ids", extra=()):
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 16, 16])
    weights = np.sin(np.arange(4 * 48)).astype(np.float32).reshape(4, 3, 4, 4)
    ids = helper.make_tensor_value_info(output, TensorProto.INT64, ["n", 4, 4])
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["f"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("ArgMax", ["f"], [output], axis=1, keepdims=0),
        *extra,
    ]
    weights = helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)
    made = helper.make_graph(nodes, "graph", [images], [ids], [weights])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def onnx_files():
    data = graph().SerializeToString()
    (HERE / "graph.onnx").write_bytes(data)
    (HERE / "graph.sha256").write_text(hashlib.sha256(data).hexdigest() + "\n")
    put("onnx", "graph", data)
    body = graph("inner").graph
    del body.initializer[:]
    branch = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    put("onnx", "branches", graph(extra=[branch]).SerializeToString())
    external = graph()
    onnx.external_data_helper.set_external_data(external.graph.initializer[0], "w.data", 0, 768)
    external.graph.initializer[0].ClearField("raw_data")
    external.graph.initializer[0].data_location = TensorProto.EXTERNAL
    external.functions.append(
        helper.make_function("mine", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], [helper.make_opsetid("", 17)])
    )
    put("onnx", "external", external.SerializeToString())
    full = "sha256: DIGEST\nsource: x\nlicence: MIT\nweights: random\ninput: {side: 16, scale: zero-one}\nkind: onnx-ids\n"
    put("manifest", "full", full + "grid: [4, 4]\ncodebook_size: 4\nsaw_labels: false\nnote: [&a {b: c}, *a]\n")
    put("manifest", "custom", "sha256: DIGEST\ninput:\n  scale: {custom: {mean: [0, 0.5, 1], std: [1, 1, 1]}}\ncodebook_size: 9\n")
    put("manifest", "features", "{sha256: 'DIGEST', kind: onnx, dim: 4, grid: [2, 8]}\n")


def suites():
    for name in ["quickstart", "cifar10", "imagenet100"]:
        lines = (ROOT / f"suites/{name}.yaml").read_text().splitlines(keepends=True)
        put("suite", name, "".join(line for line in lines if not line.startswith("#")))
    head = (
        "version: 1\nname: t\nseeds: [0, 1]\nimage_size: 16\npatch_size: 4\neval_transform: {resize_shorter: 16, crop: 16}\n"
        "backbone: {variant: nano}\n"
    )
    put(
        "suite",
        "sweep",
        head + "dataset: {kind: mosaics, seed: 3, train: 96, val: 40, size: 16}\ntokenizers:\n"
        "  - {name: 'K {k}', kind: kmeans, with: {features: {kind: pixels}, epochs: 2}, sweep: {k: [4, 8], features.kind: [hog]}}\n"
        "  - {name: R, kind: kmeans, with: &w {features: {kind: checkpoint, row: 'K 4'}, k: 2}, override: {pretrain.epochs: 2}}\n"
        "  - {name: S, kind: kmeans, with: *w, optional: true}\nbaselines: [no-pretraining]\nknn: {k: 5, temperature: 0.07}\n",
    )
    put(
        "suite",
        "shards",
        head + "dataset: {kind: webdataset, train: 'a-{000..003}.tar', val: [b.tar, '${HOME}/c'], decoded_cache: u8}\n"
        "tokenizers: [{name: N, kind: none, checkpoint: x.pth}, {name: T, kind: token-file, with: {train: t.npy, codebook_size: 4}}]\n"
        "linear_probe: {epochs: 5, batch: 64, base_lr: 0.1}\nreport: {tables: [1, 2, 7]}\nprecision: f32\n",
    )


def arrays():
    for name, array in {
        "ids": np.arange(32, dtype=np.uint32).reshape(2, 16) % 7,
        "grid": np.arange(32, dtype=np.int64).reshape(2, 4, 4) % 7,
        "counts": np.arange(28, dtype=np.uint64).reshape(7, 4),
        "bytes": np.arange(16, dtype=np.uint8).reshape(1, 16) % 7,
        "predictions": np.arange(10, dtype=np.uint32),
        "fortran": np.asfortranarray(np.zeros((2, 16), dtype=np.int32)),
        "record": np.zeros(2, dtype=[("a", "<i4"), ("b", "<f8", (2,))]),
    }.items():
        file = io.BytesIO()
        np.save(file, array)
        put("npy", name, file.getvalue())
    file = io.BytesIO()
    np.lib.format.write_array(file, np.zeros((1, 16), dtype=np.uint32), version=(2, 0))
    put("npy", "version2", file.getvalue())
    record = bytes(i % 251 for i in range(3072))
    put("cifar", "ten", b"\1" + b"\3" + record)
    put("cifar", "hundred", b"\0" + b"\3\x2a" + record)
    put("cifar", "cut", b"\1" + b"\3" + record[:-1])


def replies():
    for first, name, array in [
        (2, "ids", np.arange(32, dtype=np.int64).reshape(2, 16) % 7),
        (2, "big-endian", np.arange(32, dtype=">u2").reshape(2, 4, 4) % 7),
        (1, "codes", np.arange(64, dtype=np.uint8).reshape(2, 16, 2) % 3),
        (0, "values", np.sin(np.arange(96, dtype=np.float32)).reshape(2, 16, 3)),
        (0, "doubles", np.sin(np.arange(96, dtype=np.float64)).reshape(2, 4, 4, 3)),
        (2, "outside", np.arange(32, dtype=np.int32).reshape(2, 16)),
    ]:
        file = io.BytesIO()
        np.save(file, array)
        frame = struct.pack("<Q", len(file.getvalue())) + file.getvalue()
        put("replies", name, bytes([first]) + 2 * frame + frame[: len(frame) // 2])


def images():
    for file in sorted(FIXTURES.glob("jpeg/*.jpg")):
        if file.stat().st_size < 2000:
            put("jpeg", file.stem, file.read_bytes())
    for file in sorted(FIXTURES.glob("png/*.png")):
        put("image", file.stem, file.read_bytes())
    pixels = np.arange(9 * 7 * 4, dtype=np.uint8).reshape(9, 7, 4)
    for mode in ["L", "LA", "P", "1", "RGB", "RGBA"]:
        file = io.BytesIO()
        Image.fromarray(pixels, "RGBA").convert(mode).save(file, "PNG")
        put("image", f"png-{mode}", file.getvalue())
    for name, options in {"lossy": {"quality": 50}, "lossless": {"lossless": True}}.items():
        file = io.BytesIO()
        Image.fromarray(pixels, "RGBA").save(file, "WEBP", **options)
        put("image", f"webp-{name}", file.getvalue())
    return (FIXTURES / "png/rgb16.png").read_bytes()


def shards(png):
    for name, form in {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}.items():
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            long = "d" * 120 + "/" if name != "ustar" else "d/"
            for path, data in {
                "0001.png": png,
                "0001.cls": b"0",
                f"{long}0002.png": png,
                f"{long}0002.json": json.dumps({"label": "b"}).encode(),
            }.items():
                about = tarfile.TarInfo(path)
                about.size = len(data)
                archive.addfile(about, io.BytesIO(data))
        # Ten blocks of zeros at the end suffice.
        end = len(file.getvalue().rstrip(b"\0"))
        put("shard", name, file.getvalue()[: (end // 512 + 3) * 512])


def state():
    """Tensors of all layouts, without the 40 KB of a whole ViT."""
    base = torch.arange(64.0)
    return {
        "model": {
            "patch_embed.proj.weight": torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last),
            "expanded": torch.ones(1).expand(3, 4),
            "sliced": base[8:24].reshape(4, 4)[1:3, ::2],
            "half": base[:4].half(),
            "brain": base[:4].bfloat16(),
            "steps": torch.tensor(3),
            "mask": torch.tensor([True, False]),
            "parameter": torch.nn.Parameter(base[:4]),
        },
        "epoch": 3,
        "args": {"lr": 1e-3, "name": "x", "big": 1 << 70, "list": [1, (2, 3)], "set": {1}},
    }


def checkpoints():
    for protocol in [2, 4]:
        file = io.BytesIO()
        torch.save(state(), file, pickle_protocol=protocol)
        put("pth", f"protocol{protocol}", file.getvalue())
        archive = zipfile.ZipFile(file)
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        put("pickle", f"protocol{protocol}", archive.read(name))
    put("pickle", "plain", pickle.dumps({"a": [1, 2.5, None, b"x"], "b": ("y", frozenset({3}))}, protocol=5))
    for dtype, size in [("F32", 4), ("BF16", 2), ("I64", 8)]:
        header = {
            "patch_embed.proj.weight": {"dtype": dtype, "shape": [16, 1, 1, 2], "data_offsets": [0, 32 * size]},
            "cls_token": {"dtype": dtype, "shape": [1, 1, 16], "data_offsets": [32 * size, 48 * size]},
            "__metadata__": {"tessera": json.dumps({"variant": "nano"})},
        }
        text = json.dumps(header).encode()
        put("safetensors", dtype, struct.pack("<Q", len(text)) + text + bytes(48 * size))


def results():
    for file in sorted((ROOT / "reports/baseline").glob("*/results.csv")):
        lines = file.read_text().splitlines(keepends=True)[:5]
        rows = [row["tokenizer"] for row in csv.DictReader(lines)]
        # A run folder is refused unless the metrics of exactly these rows are there.
        metrics = (file.parent / "metrics.csv").read_text().splitlines(keepends=True)
        metrics = [line for at, line in enumerate(metrics) if at == 0 or next(csv.reader([line]))[0] in rows]
        put("results", file.parent.name, "".join(lines) + "\0" + "".join(metrics))


onnx_files()
suites()
arrays()
replies()
shards(images())
checkpoints()
results()
