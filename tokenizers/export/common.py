"""What the training scripts of the embedded models share: mosaics of other seeds, the ONNX file, its digest."""

import hashlib
import pathlib
import subprocess

import numpy as np
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
EMBEDDED = ROOT / "tokenizers" / "embedded"
SIZE = 32
# Benchmarks draw seeds below 1000, so that no embedded model has seen an image it is judged on.
SEED = 1000


def mosaics(folder: pathlib.Path, train: int, val: int):
    """uint8 images [n, 32, 32, 3] of both splits, drawn by Tessera itself, and the labels."""
    if not (folder / "train.npy").exists():
        args = ["cargo", "run", "--release", "--example", "draw_mosaics", "--"]
        subprocess.run([*args, folder, str(SEED), str(train), str(val), str(SIZE)], cwd=ROOT, check=True)
    load = lambda name: torch.from_numpy(np.load(folder / f"{name}.npy").astype(np.uint8))
    return load("train"), load("train.labels"), load("val"), load("val.labels")


def unit(images: torch.Tensor) -> torch.Tensor:
    """Bytes [n, 32, 32, 3] to RGB in [0, 1], [n, 3, 32, 32]."""
    return images.permute(0, 3, 1, 2).float() / 255


def finish_ids(model: torch.nn.Module, name: str, val: torch.Tensor) -> None:
    """Says how many codes are in use, writes the graph of ids and checks it."""
    with torch.no_grad():
        print("codes used on val:", model.eval()(unit(val)).unique().numel())
    export(model, name, "token_ids")
    check(model, name, unit(val[:64]))


def export(model: torch.nn.Module, name: str, output: str) -> None:
    """Writes embedded/NAME.onnx with a dynamic batch, and its SHA-256 into embedded/SHA256SUMS."""
    path = EMBEDDED / f"{name}.onnx"
    torch.onnx.export(
        model.eval(),
        (torch.rand(2, 3, SIZE, SIZE),),
        str(path),
        input_names=["pixel_values"],
        output_names=[output],
        dynamic_axes={"pixel_values": {0: "batch"}, output: {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    sums = EMBEDDED / "SHA256SUMS"
    lines = sums.read_text().splitlines() if sums.exists() else []
    lines = [line for line in lines if not line.endswith(path.name)]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sums.write_text("\n".join(sorted([*lines, f"{digest}  {path.name}"], key=lambda l: l.split()[-1])) + "\n")
    print(f"{path.name}: {path.stat().st_size} bytes, sha256 {digest}")


def check(model: torch.nn.Module, name: str, images: torch.Tensor) -> None:
    """The exported graph gives what the model gives, alone and in a batch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(EMBEDDED / f"{name}.onnx"))
    with torch.no_grad():
        expected = model.eval()(images).numpy()
    found = session.run(None, {"pixel_values": images.numpy()})[0]
    alone = np.concatenate([session.run(None, {"pixel_values": image[None].numpy()})[0] for image in images[:4]])
    if expected.dtype == np.int64:
        print(f"ids equal: {(found == expected).mean():.6f}, alone: {(alone == expected[:4]).mean():.6f}")
    else:
        print(f"largest difference: {abs(found - expected).max():.2e}, alone: {abs(alone - expected[:4]).max():.2e}")
