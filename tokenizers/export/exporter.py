"""What the exporters share: arguments, checkpoints, the ONNX file, its manifest, and its agreement with the framework."""

import argparse
import hashlib
import json
import pathlib

import numpy as np
import torch

WRAPPERS = ("model", "state_dict", "teacher", "student", "model_state_dict")


def arguments(description, source, licence):
    """The arguments that all exporters have; an exporter adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--checkpoint", type=pathlib.Path, help=f"the published file ({source})")
    given.add_argument("--random", action="store_true", help="random weights of the true architecture, to try the export")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the .onnx file to write; its manifest is .yaml beside it")
    parser.add_argument("--images", type=pathlib.Path, help="a folder of images to check the export on (else noise)")
    parser.add_argument("--count", type=int, default=32, help="how many of them")
    parser.set_defaults(source=source, licence=licence)
    return parser


def state_of(path):
    """The state dict in a checkpoint, without the wrapping of a training script."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=False)
    if isinstance(loaded, torch.nn.Module):
        return loaded.state_dict()
    for key in WRAPPERS:
        if isinstance(loaded.get(key), dict):
            return loaded[key]
    return loaded


def load(model, state, beside):
    """Loads `state` strictly, but for names that begin with one of `beside`."""
    kept = {k: v.float() for k, v in state.items() if not k.startswith(tuple(beside))}
    missing, unexpected = model.load_state_dict(kept, strict=False)
    if missing or unexpected:
        raise SystemExit(f"the checkpoint is not of this model: missing {missing[:5]}, unexpected {unexpected[:5]}")


def images(folder, count, side, resize, scale):
    """f32 [n, 3, side, side]: the shorter side to `resize`, the centre of `side`, bicubic, scaled; noise without a folder."""
    if folder is None:
        return torch.from_numpy(np.random.default_rng(0).random((min(count, 8), 3, side, side), dtype=np.float32))
    from PIL import Image

    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
    if not paths:
        raise SystemExit(f"{folder} has no images")
    out = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        image = Image.open(path).convert("RGB")
        box = min(image.size) * side / resize
        left, top = (image.width - box) / 2, (image.height - box) / 2
        crop = image.resize((side, side), Image.BICUBIC, box=(left, top, left + box, top + box))
        out.append(np.asarray(crop, dtype=np.float32).transpose(2, 0, 1) / 255)
    return scaled(torch.from_numpy(np.stack(out)), scale)


def scaled(x, scale):
    """0..1 to what the model wants, by the names that suites use."""
    if scale == "imagenet":
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    return {"zero-one": x, "minus-one-one": 2 * x - 1, "dvae": 0.8 * x + 0.1}[scale]


def export(model, args, side, scale, output, about):
    """Writes the graph and its manifest, and says how far it agrees with the framework."""
    model.eval()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model,
        (torch.rand(2, 3, side, side),),
        str(args.out),
        input_names=["pixel_values"],
        output_names=[output],
        dynamic_axes={"pixel_values": {0: "batch"}, output: {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    agreement = agree(model, args, side, scale)
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    weights = "random" if args.random else args.checkpoint.name
    lines = {
        "sha256": digest,
        "source": json.dumps(args.source),
        "licence": json.dumps(args.licence),
        "weights": json.dumps(weights),
        "input": f"{{side: {side}, scale: {scale}}}",
        **about,
        "agreement": agreement,
    }
    text = "".join(f"{key}: {value}\n" for key, value in lines.items())
    args.out.with_suffix(".yaml").write_text(text)
    print(text, end="")


def agree(model, args, side, scale):
    """How far onnxruntime gives what the framework gives."""
    import onnxruntime

    x = images(args.images, args.count, side, side * 8 // 7, scale)
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(str(args.out), options, providers=["CPUExecutionProvider"])
    equal, largest = [], 0.0
    for batch in x.split(4):
        with torch.no_grad():
            expected = model(batch).numpy()
        found = session.run(None, {"pixel_values": batch.numpy()})[0]
        if expected.dtype == np.int64:
            equal.append(found == expected)
        else:
            largest = max(largest, float(np.abs(found - expected).max() / np.abs(expected).max()))
    on = f"{len(x)} images of {args.images.name}" if args.images else f"{len(x)} squares of noise"
    if equal:
        return f"\"{100 * np.concatenate(equal).mean():.4f} % of ids, {on}\""
    return f"\"largest difference {largest:.1e} of the largest feature, {on}\""
