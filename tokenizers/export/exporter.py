"""Shared by the exporters: arguments, checkpoints, the ONNX file, its manifest, and its agreement with PyTorch."""

import argparse
import hashlib
import json
import pathlib

import numpy as np
import torch

WRAPPERS = ("model", "state_dict", "teacher", "student", "model_state_dict")
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def arguments(description, source, licence):
    """The arguments of all exporters; an exporter adds its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--checkpoint", type=pathlib.Path, help=f"the published file ({source})")
    given.add_argument("--random", action="store_true", help="export random weights of the true architecture, for a trial")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the .onnx file to write; the manifest is a .yaml file next to it")
    parser.add_argument("--side", type=int, default=224, help="side of the input, pixels [%(default)s]")
    parser.add_argument("--images", type=pathlib.Path, help="a folder of images to check the export on (default: noise)")
    parser.add_argument("--count", type=int, default=32, help="number of these images [%(default)s]")
    parser.set_defaults(source=source, licence=licence)
    return parser


def state_of(path):
    """The state dict in a checkpoint, without the wrapper of a training script."""
    if not path.is_file():
        raise SystemExit(f"{path} not found; --random tries the export without it")
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


def without_prefix(state, known):
    """The entries of `state` that share the prefix of the parameter ending in `known`, without the prefix; None if there is none."""
    prefix = next((name[: -len(known)] for name in state if name.endswith(known)), None)
    if prefix is None:
        return None
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def load(model, state, beside):
    """Loads `state` strictly, except names that start with one of `beside`."""
    kept = {k: v.float() for k, v in state.items() if not k.startswith(tuple(beside))}
    try:
        missing, unexpected = model.load_state_dict(kept, strict=False)
    except RuntimeError as error:
        raise SystemExit(f"the checkpoint does not fit this model: {error}") from None
    if missing or unexpected:
        raise SystemExit(f"the checkpoint does not fit this model: missing {missing[:5]}, unexpected {unexpected[:5]}")


def images(folder, count, side, resize, scale):
    """f32 [n, 3, side, side]: shorter side resized to `resize` (bicubic), centre crop of `side`, scaled; noise without a folder."""
    if folder is None:
        noise = np.random.default_rng(0).random((min(count, 8), 3, side, side), dtype=np.float32)
        return scaled(torch.from_numpy(noise), scale)
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


def scale_of(mean, std):
    """The suites' name for (x - mean) / std, or the numbers."""
    if {"mean": list(mean), "std": list(std)} == IMAGENET:
        return "imagenet"
    if set(mean) == set(std) == {0.5}:
        return "minus-one-one"
    return {"custom": {"mean": list(mean), "std": list(std)}}


def scaled(x, scale):
    """Scales 0..1 to the model's range, with the suites' names."""
    named = {"zero-one": x, "minus-one-one": 2 * x - 1, "dvae": 0.8 * x + 0.1}
    if isinstance(scale, str) and scale in named:
        return named[scale]
    numbers = IMAGENET if scale == "imagenet" else scale["custom"]
    mean, std = (torch.tensor(numbers[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (x - mean) / std


def export(model, args, scale, output, about):
    """Writes the graph and its manifest, and prints the agreement with PyTorch."""
    model.eval()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    torch.onnx.export(
        model,
        (torch.rand(2, 3, args.side, args.side),),
        str(args.out),
        input_names=["pixel_values"],
        output_names=[output],
        dynamic_axes={"pixel_values": {0: "batch"}, output: {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    lines = {
        "sha256": json.dumps(hashlib.sha256(args.out.read_bytes()).hexdigest()),
        "source": json.dumps(args.source),
        "licence": json.dumps(args.licence),
        "weights": json.dumps("random" if args.random else args.checkpoint.name),
        "input": f"{{side: {args.side}, scale: {scale if isinstance(scale, str) else json.dumps(scale)}}}",
        **{key: json.dumps(value) if isinstance(value, bool) else value for key, value in about.items()},
        "agreement": json.dumps(agree(model, args, scale)),
    }
    text = "".join(f"{key}: {value}\n" for key, value in lines.items())
    args.out.with_suffix(".yaml").write_text(text)
    print(text, end="")


def agree(model, args, scale):
    """Describes the agreement of onnxruntime with PyTorch."""
    import onnxruntime

    x = images(args.images, args.count, args.side, args.side * 8 // 7, scale)
    session = onnxruntime.InferenceSession(str(args.out), providers=["CPUExecutionProvider"])
    on = f"{len(x)} images of {args.images.name}" if args.images else f"{len(x)} squares of noise"
    pairs = []
    for batch in x.split(4):
        with torch.no_grad():
            expected = model(batch).numpy()
        pairs.append((batch, expected, session.run(None, {"pixel_values": batch.numpy()})[0]))
    if pairs[0][1].dtype == np.int64:
        return f"{agreement_of_ids(model, pairs)}, {on}"
    largest = max(np.abs(expected).max() for _, expected, _ in pairs)
    apart = max(np.abs(found - expected).max() for _, expected, found in pairs)
    return f"largest difference {apart / largest:.1e} of the largest feature, {on}"


def agreement_of_ids(model, pairs):
    """Describes the equal ids in percent, the ids in use, and the largest score gap of the other ids (relative to the scores' spread)."""
    equal = np.concatenate([found == expected for _, expected, found in pairs])
    used = len(np.unique(np.concatenate([expected for _, expected, _ in pairs])))
    text = f"{100 * equal.mean():.4f} % of ids ({used} in use"
    if not equal.all():
        gap = max(largest_gap(model, *pair) for pair in pairs)
        text += f"; where they differ, the scores do by {gap:.1e} of their spread"
    return text + ")"


def largest_gap(model, batch, expected, found):
    """The largest gap between the scores of the two ids, divided by the scores' standard deviation."""
    at = torch.from_numpy(expected != found)
    if not at.any():
        return 0.0
    with torch.no_grad():
        scores = model.scores(batch).movedim(1, -1)[at]
    pick = lambda ids: scores.gather(1, torch.from_numpy(ids)[at][:, None])[:, 0]
    return float(((pick(expected) - pick(found)) / scores.std(1)).max())
